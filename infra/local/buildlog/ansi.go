package buildlog

import (
	"slices"
	"strconv"
	"strings"
)

// Span is a part of a line in one style.
type Span struct {
	Text string `json:"t"`
	// Class is the style: words of "b" (bold), "f" (faint), "i", "u", "x" (struck),
	// "fg0" to "fg15" and "bg0" to "bg15"; empty is plain.
	Class string `json:"c,omitempty"`
}

// Spans reads the colours that a line was printed in (ECMA-48, 8.3.117, "SGR").
// Everything else that would move a terminal is left out, as Clean does; of text
// that overwrites itself the last state stays.
func Spans(line string) []Span {
	line = strings.TrimRight(line, "\r")
	if i := strings.LastIndexByte(line, '\r'); i >= 0 {
		line = line[i+1:]
	}
	if strings.IndexByte(line, 0x1b) < 0 {
		return appendSpan(nil, line, "")
	}
	var spans []Span
	var look style
	for line != "" {
		i := strings.IndexByte(line, 0x1b)
		if i < 0 {
			return appendSpan(spans, line, look.class())
		}
		spans = appendSpan(spans, line[:i], look.class())
		n := escape(line[i:])
		if seq := line[i : i+n]; strings.HasPrefix(seq, "\x1b[") && seq[len(seq)-1] == 'm' {
			look.set(seq[2 : len(seq)-1])
		}
		line = line[i+n:]
	}
	return spans
}

func appendSpan(spans []Span, text, class string) []Span {
	if text = Clean(text); text == "" {
		return spans
	}
	if n := len(spans); n > 0 && spans[n-1].Class == class {
		spans[n-1].Text += text
		return spans
	}
	return append(spans, Span{text, class})
}

// style is what SGR sequences have set. Colours are one more than they are, so that
// the zero value has none.
type style struct {
	marks   []string
	fg, bg  int
	inverse bool
}

// class writes the style as class names.
func (s *style) class() string {
	fg, bg := s.fg, s.bg
	if s.inverse {
		fg, bg = bg, fg
		if fg == 0 && bg == 0 {
			fg, bg = 1, 8 // black on white
		}
	}
	words := slices.Clone(s.marks)
	if fg > 0 {
		words = append(words, "fg"+strconv.Itoa(fg-1))
	}
	if bg > 0 {
		words = append(words, "bg"+strconv.Itoa(bg-1))
	}
	return strings.Join(words, " ")
}

func (s *style) mark(name string, on bool) {
	s.marks = slices.DeleteFunc(s.marks, func(m string) bool { return m == name })
	if on {
		s.marks = append(s.marks, name)
		slices.Sort(s.marks)
	}
}

// set carries out the parameters of one sequence.
func (s *style) set(params string) {
	var codes []int
	for p := range strings.FieldsFuncSeq(params+";", func(r rune) bool { return r == ';' || r == ':' }) {
		n, err := strconv.Atoi(p)
		if err != nil {
			return
		}
		codes = append(codes, n)
	}
	if len(codes) == 0 {
		codes = []int{0}
	}
	for i := 0; i < len(codes); i++ {
		switch c := codes[i]; {
		case c == 0:
			*s = style{}
		case c == 38 || c == 48:
			colour, used := extended(codes[i+1:])
			if i += used; c == 38 {
				s.fg = colour
			} else {
				s.bg = colour
			}
		default:
			s.simple(c)
		}
	}
}

// simple carries out a code without arguments.
func (s *style) simple(c int) {
	marks := map[int]string{1: "b", 2: "f", 3: "i", 4: "u", 9: "x"}
	switch {
	case marks[c] != "":
		s.mark(marks[c], true)
	case c == 22:
		s.mark("b", false)
		s.mark("f", false)
	case c == 23 || c == 24 || c == 29:
		s.mark(marks[c-20], false)
	case c == 7 || c == 27:
		s.inverse = c == 7
	case c >= 30 && c <= 37:
		s.fg = c - 30 + 1
	case c == 39:
		s.fg = 0
	case c >= 40 && c <= 47:
		s.bg = c - 40 + 1
	case c == 49:
		s.bg = 0
	case c >= 90 && c <= 97:
		s.fg = c - 90 + 9
	case c >= 100 && c <= 107:
		s.bg = c - 100 + 9
	}
}

// extended reads a colour of 256 or of three bytes, as the nearest of sixteen, and
// says how many codes that took.
func extended(codes []int) (colour, used int) {
	switch {
	case len(codes) >= 2 && codes[0] == 5:
		n := codes[1]
		switch {
		case n < 0 || n > 255:
			return 0, 2
		case n < 16:
			return n + 1, 2
		case n < 232:
			n -= 16
			return nearest(n/36*51, n/6%6*51, n%6*51), 2
		}
		grey := (n-232)*10 + 8
		return nearest(grey, grey, grey), 2
	case len(codes) >= 4 && codes[0] == 2:
		return nearest(codes[1], codes[2], codes[3]), 4
	}
	return 0, len(codes)
}

// nearest is the colour of sixteen that is meant by a mix.
func nearest(r, g, b int) int {
	most := max(r, g, b)
	if most < 48 {
		return 1
	}
	n := 0
	for bit, v := range []int{r, g, b} {
		if v*2 > most {
			n |= 1 << bit
		}
	}
	switch {
	case n == 7 && most < 160:
		return 8 + 1 // grey
	case most > 200:
		return n + 8 + 1
	}
	return n + 1
}
