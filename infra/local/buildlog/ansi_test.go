package buildlog

import (
	"fmt"
	"strings"
	"testing"
)

// Colours become classes; what moves a cursor goes.
func TestSpans(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                            "plain",
		"":                                 "",
		"a\x1b[31mred\x1b[0m!":             "a|fg1:red|!",
		"\x1b[1;32mgood\x1b[22m still":     "b fg2:good|fg2: still",
		"\x1b[91mx\x1b[39my":               "fg9:x|y",
		"\x1b[38;5;196mx\x1b[48;2;0;0;9my": "fg9:x|fg9 bg0:y",
		"\x1b[38;5;250mx":                  "fg7:x",
		"\x1b[7mx\x1b[27my":                "fg0 bg7:x|y",
		"\x1b[4;9;3mx\x1b[24;23;29my":      "i u x:x|y",
		"\x1b[31mone\x1b[31mtwo":           "fg1:onetwo",
		"\x1b[2J\x1b]0;title\x07x\x1b[1mA": "x|b:A",
		"10%\r\x1b[32m20%\r":               "fg2:20%",
		"<b>\x1b[31m<i>":                   "<b>|fg1:<i>",
		"\x1b[31":                          "",
		"\x1b[xmx":                         "mx",
		"\x1b[38mx":                        "x",
		"a\u202eb\x00c\xff":                "abc\uFFFD",
	} {
		var got []string
		for _, s := range Spans(in) {
			if s.Class != "" {
				s.Text = s.Class + ":" + s.Text
			}
			got = append(got, s.Text)
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%q is %q, want %q", in, strings.Join(got, "|"), want)
		}
	}
}

// Whatever a process prints, spans are what Clean leaves of it, in known classes.
func FuzzSpans(f *testing.F) {
	for _, s := range []string{"a\x1b[31mb\x1b[0m", "\x1b[38;5;300m", "\x1b[;;m", "\x1b", "x\ry", "\x1b[38;2;1;2m", "\x1b]8;;u\x1b\\l"} {
		f.Add(s)
	}
	known := map[string]bool{"": true, "b": true, "f": true, "i": true, "u": true, "x": true}
	for i := range 16 {
		known[fmt.Sprint("fg", i)], known[fmt.Sprint("bg", i)] = true, true
	}
	f.Fuzz(func(t *testing.T, line string) {
		var text strings.Builder
		for _, s := range Spans(line) {
			text.WriteString(s.Text)
			for word := range strings.SplitSeq(s.Class, " ") {
				if !known[word] {
					t.Errorf("class %q", word)
				}
			}
			if s.Text == "" || Clean(s.Text) != s.Text {
				t.Errorf("span %q", s.Text)
			}
		}
	})
}
