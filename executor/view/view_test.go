package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/golden"
	"github.com/kilnhook/kiln/executor/internal/progress"
)

func at(ms int) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
}

// story is a build with everything that an event can say.
func story() []Event {
	return []Event{
		{Time: at(0), Kind: progress.KindNote, Text: "isolation: overlay"},
		{Time: at(0), Kind: progress.KindStep, ID: "0", Name: "load build context", Phase: progress.PhaseLoad, State: progress.StateStarted},
		{Time: at(100), Kind: progress.KindBytes, ID: "0", Phase: progress.PhaseLoad, Current: 1000, Total: 0},
		{Time: at(600), Kind: progress.KindBytes, ID: "0", Phase: progress.PhaseLoad, Current: 2000},
		{Time: at(1200), Kind: progress.KindBytes, ID: "0", Phase: progress.PhaseLoad, Current: 12_345_678},
		{Time: at(1300), Kind: progress.KindStep, ID: "0", State: progress.StateDone, MS: 1300},
		{Time: at(1300), Kind: progress.KindStep, ID: "1.1", Name: "[builder 1/3] COPY . .", Phase: progress.PhaseCopy, State: progress.StateCached},
		{Time: at(1400), Kind: progress.KindStep, ID: "1.2", Name: "[builder 2/3] RUN make", Phase: progress.PhaseRun, State: progress.StateStarted},
		{Time: at(1500), Kind: progress.KindNote, ID: "1.2", Pos: "Dockerfile:7", Text: "deprecated"},
		{Time: at(1812), Kind: progress.KindOutput, ID: "1.2", Stream: 1, Text: "\x1b[31mred\x1b[0m\tand\x07 10%\r20%"},
		{Time: at(1900), Kind: progress.KindOutput, ID: "1.2", Stream: 2, Text: "warning: x"},
		{Time: at(2000), Kind: progress.KindStep, ID: "2.1", Name: "[app 1/1] RUN test", Phase: progress.PhaseRun, State: progress.StateStarted},
		{Time: at(2600), Kind: progress.KindStep, ID: "1.2", State: progress.StateDone},
		{Time: at(2700), Kind: progress.KindBytes, ID: "1.2", Name: "sha256:abc", Phase: progress.PhasePush, Current: 1, Total: 5_000_000},
		{Time: at(2800), Kind: progress.KindBytes, ID: "1.2", Name: "sha256:abc", Phase: progress.PhasePush, Current: 2, Total: 5_000_000},
		{Time: at(3800), Kind: progress.KindBytes, ID: "1.2", Name: "sha256:abc", Phase: progress.PhasePush, Current: 3_000_000, Total: 5_000_000},
		{Time: at(3900), Kind: progress.KindBytes, ID: "1.2", Name: "sha256:abc", Phase: progress.PhasePush, Current: 5_000_000, Total: 5_000_000},
		{Time: at(4000), Kind: progress.KindStep, ID: "2.1", State: progress.StateFailed, Error: "exit status 2\nsecond line"},
		{Time: at(4100), Kind: progress.KindResult, State: progress.StateFailed, Text: "Dockerfile:9: RUN test: exit status 2"},
		{Time: at(4150), Kind: progress.KindPhase, ID: "1.2", Phase: progress.PhaseRun, State: progress.StateDone, MS: 1100},
		{Time: at(4150), Kind: progress.KindLayer, ID: "1.2", Name: "[builder 2/3] RUN make", Layer: &progress.Layer{Digest: "sha256:def", Size: 5_000_000, Contents: &progress.Contents{Files: 7, Bytes: 9_000_000}}},
		{Time: at(4200), Kind: progress.KindResult, State: progress.StateDone, Text: "sha256:0123"},
	}
}

func terminal80() (columns, rows int) { return 80, 24 }

func render(t *testing.T, opt Options) string {
	t.Helper()
	var b bytes.Buffer
	r, err := New(&b, opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range story() {
		r.Event(e)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.Event(Event{Kind: progress.KindNote, Text: "too late"})
	return b.String()
}

// The plain and the JSON form of a build are the golden files.
func TestGolden(t *testing.T) {
	golden.Equal(t, "plain.txt", render(t, Options{Mode: "plain"}))
	golden.Equal(t, "events.jsonl", render(t, Options{Mode: "json"}))
}

// Another attempt of a build begins its steps anew.
func TestAgain(t *testing.T) {
	var b bytes.Buffer
	r, err := New(&b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range append(story()[:7], story()...) {
		r.Event(e)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), " #1 load build context\n"); n != 2 {
		t.Errorf("the first step is begun %d times in\n%s", n, b.String())
	}
	tr := newTree(style{}, at(0))
	for _, e := range append(story()[:13], story()[:9]...) {
		tr.add(e, at(5000), 80)
	}
	if got := tr.draw(at(5000), 79, 24); len(got) < 2 || !strings.Contains(got[0], "Building 5.0s  1/4 steps") || !strings.Contains(got[1], "RUN make  ") {
		t.Errorf("the tree is\n%s", strings.Join(got, "\n"))
	}
}

// Without a terminal, or a useful one, a live view falls back to plain lines.
func TestFallBack(t *testing.T) {
	want := render(t, Options{Mode: "plain"})
	for name, opt := range map[string]Options{
		"default":  {},
		"auto":     {Mode: "auto"},
		"no clock": {Mode: "tty", Size: terminal80},
		"no size":  {Mode: "tty", Now: time.Now},
		"pipe":     {Mode: "tty", Now: time.Now, Size: func() (int, int) { return 0, 0 }},
		"low":      {Mode: "auto", Now: time.Now, Size: func() (int, int) { return 80, 3 }},
		"dumb":     {Mode: "tty", Now: time.Now, Size: terminal80, Abilities: Abilities{Dumb: true}},
		"narrow":   {Mode: "auto", Now: time.Now, Size: func() (int, int) { return 19, 24 }},
	} {
		if got := render(t, opt); got != want {
			t.Errorf("%s: no plain lines but %q", name, got)
		}
	}
	if _, err := New(nil, Options{Mode: "fancy"}); err == nil || !strings.Contains(err.Error(), `"fancy" is unknown`) {
		t.Errorf("error = %v", err)
	}
}

// What terminals can is told by the environment.
func TestAbilities(t *testing.T) {
	for env, want := range map[string]Abilities{
		"TERM=xterm-256color":            {Color: true, Reflow: true},
		"TERM=xterm-256color NO_COLOR=1": {Reflow: true},
		"TERM=xterm NO_COLOR=":           {Color: true, Reflow: true},
		"TERM=dumb":                      {Dumb: true, Reflow: true},
		"TERM=linux":                     {Color: true},
		"TERM=xterm XTERM_VERSION=390":   {Color: true},
		"TERM=rxvt-unicode":              {Color: true},
		"TERM=screen STY=1.pts":          {Color: true},
		"TERM=screen TMUX=x":             {Color: true, Reflow: true},
	} {
		got := AbilitiesOf(func(name string) string {
			for kv := range strings.FieldsSeq(env) {
				if v, ok := strings.CutPrefix(kv, name+"="); ok {
					return v
				}
			}
			return ""
		})
		if got != want {
			t.Errorf("%s: %+v", env, got)
		}
	}
}

// Every JSON line is one object that reads back as the event it was.
func TestJSONRoundTrip(t *testing.T) {
	var b bytes.Buffer
	r, err := New(&b, Options{Mode: "json"})
	if err != nil {
		t.Fatal(err)
	}
	want := Event{Time: at(5), Kind: progress.KindOutput, ID: "2.3", Stream: 2, Text: "a\nb\x00\"<", Current: 1, Total: 2, MS: 3, Error: "e", Pos: "D:1", Name: "n", Phase: progress.PhaseRun, State: progress.StateDone}
	r.Event(want)
	r.Event(Event{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), Kind: progress.KindNote})
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), b.String())
	}
	var got Event
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Events from many goroutines never mix within a line.
func TestConcurrentUse(t *testing.T) {
	for _, mode := range []string{"plain", "json", "tty"} {
		var b bytes.Buffer
		r, err := New(&b, Options{Mode: mode, Now: time.Now, Size: terminal80})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for _, e := range story() {
					r.Event(e)
				}
			})
		}
		wg.Wait()
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(b.String()) {
			if mode == "plain" && !regexp.MustCompile(`^   \d\.\d\d [#\[a-zA-Z0-9][^\x1b]*\n$`).MatchString(line) || mode == "json" && !json.Valid([]byte(line)) {
				t.Errorf("%s: a line is %q", mode, line)
			}
		}
	}
}

type brokenWriter struct{ writes int }

func (w *brokenWriter) Write([]byte) (int, error) {
	w.writes++
	return 0, os.ErrClosed
}

// A writer that fails is reported by Close and not written to again.
func TestWriterFails(t *testing.T) {
	for _, mode := range []string{"plain", "json"} {
		w := &brokenWriter{}
		r, err := New(w, Options{Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range story() {
			r.Event(e)
		}
		if err := r.Close(); !errors.Is(err, os.ErrClosed) || w.writes != 1 {
			t.Errorf("%s: error %v after %d writes", mode, err, w.writes)
		}
	}
}

// Text of foreign processes cannot control the terminal.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain text":             "plain text",
		"a\tb":                   "a       b",
		"1234567\tb":             "1234567 b",
		"\x1b[1;31mred\x1b[0m":   "red",
		"\x1b]0;title\x07after":  "after",
		"\x1b]8;;u\x1b\\link":    "link",
		"\x1bPdcs\x1b\\x":        "x",
		"\x1b(Bcharset":          "charset",
		"\x1b7saved\x1bcreset":   "savedreset",
		"\u009b2Jc1":             "c1",
		"cut \x1b[":              "cut ",
		"cut \x1b":               "cut ",
		"cut \x1b]0;never":       "cut ",
		"odd \x1b[3\x01mx":       "odd mx",
		"10%\r50%\r100%":         "100%",
		"dos line\r\n":           "dos line",
		"bell\a back\b null\x00": "bell back null",
		"bad \xff utf8":          "bad \ufffd utf8",
		"\u202eevil":             "evil",
		"line\u2028sep":          "linesep",
		"日本":                     "日本",
		"del\x7f":                "del",
		"two\nlines":             "twolines",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

// Colours, and nothing else of what controls a terminal, may stay.
func TestTint(t *testing.T) {
	for in, want := range map[string]string{
		"\x1b[1;31mred\x1b[0m":                       "\x1b[1;31mred\x1b[0m",
		"\x1b[38:2::1:2:3mrgb":                       "\x1b[38:2::1:2:3mrgb\x1b[0m",
		"\x1b[mplain":                                "\x1b[mplain\x1b[0m",
		"\x1b[>4;2mkeys":                             "keys",
		"\x1b[?4mprivate":                            "private",
		"\x1b[1 mspaced":                             "spaced",
		"\x1b[2J\x1b[H\x1b[31mred\x1b[10A":           "\x1b[31mred\x1b[0m",
		"\x1b[?25l\x1b[?1049hfull\x1b[5;1H":          "full",
		"\u009b31mc1":                                "c1",
		"\x1b[" + strings.Repeat("1;", 40) + "mlong": "long",
		"\x1b]8;;http://x\x1b\\link\x1b[4mu":         "link\x1b[4mu\x1b[0m",
		"10%\r\x1b[32m100%":                          "\x1b[32m100%\x1b[0m",
	} {
		if got := Tint(in); got != want {
			t.Errorf("Tint(%q) = %q, want %q", in, got, want)
		}
		if got, plain := Clean(Tint(in)), Clean(in); got != plain {
			t.Errorf("Tint(%q) reads %q, not %q", in, got, plain)
		}
	}
	if got := fit("\x1b[31mred and long\x1b[0m", 5); got != "\x1b[31mred …\x1b[0m" || textWidth(got) != 5 {
		t.Errorf("fit = %q", got)
	}
}

// Lines are cut to columns, not to bytes.
func TestFit(t *testing.T) {
	for _, tc := range []struct {
		in      string
		columns int
		want    string
	}{
		{"short", 5, "short"}, {"longer", 5, "long…"}, {"日本語", 6, "日本語"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"},
		{"e\u0301e\u0301", 2, "e\u0301e\u0301"}, {"x", 0, ""}, {"xy", 1, "…"},
	} {
		got := fit(tc.in, tc.columns)
		if got != tc.want || textWidth(got) > tc.columns {
			t.Errorf("fit(%q, %d) = %q, want %q", tc.in, tc.columns, got, tc.want)
		}
	}
}

// Sizes have three or four digits.
func TestSize(t *testing.T) {
	for in, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1.0kB", 999_949: "999.9kB", 999_950: "1.0MB", 40_100_000: "40.1MB", 5_000_000_000_000_000: "5000.0TB"} {
		if got := Bytes(in); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"a\x1b[31mb", "\x1b]0;x\x07", "\x9b", "\u009b1m", "\r\n\t", "\x1b(", "\xff\xfe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		for _, r := range got {
			if r < 0x20 || r >= 0x7f && r < 0xa0 || isBidi(r) {
				t.Errorf("Clean(%q) = %q holds %U", s, got, r)
			}
		}
		for _, seq := range strings.SplitAfter(Tint(s), "m") {
			if i := strings.IndexByte(seq, 0x1b); i >= 0 && !isColor(seq[i:]) {
				t.Errorf("Tint(%q) holds %q", s, seq)
			}
		}
		if again := Clean(got); again != got {
			t.Errorf("Clean(%q) = %q but again %q", s, got, again)
		}
		if w := textWidth(fit(got, 10)); w > 10 {
			t.Errorf("%q is %d columns wide", got, w)
		}
	})
}
