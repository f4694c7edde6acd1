package view

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// tabStop is the distance of tab stops on a terminal.
const tabStop = 8

// Clean makes a line that a foreign process printed safe to show on a
// terminal: escape sequences and control characters are removed, as are the
// characters that reverse the direction of text; tabs become spaces and bytes
// that are no UTF-8 become U+FFFD. Of a line that was overwritten with carriage
// returns, as progress bars are, the last version remains. The result holds no
// newline.
func Clean(line string) string { return clean(line, false) }

// Tint is Clean but for colours, bold and their like (SGR of ECMA-48): those
// stay, and end with the line.
func Tint(line string) string { return clean(line, true) }

func clean(line string, tint bool) string {
	line = lastVersion(line)
	if isPlain(line) {
		return line
	}
	var b strings.Builder
	b.Grow(len(line))
	column, open := 0, false
	for i := 0; i < len(line); {
		r, size := utf8.DecodeRuneInString(line[i:])
		switch {
		case r == 0x1b || r == 0x9b:
			n := escapeLength(line[i:])
			if tint && isColor(line[i:i+n]) {
				b.WriteString(line[i : i+n])
				open = true
			}
			i += n
			continue
		case r == '\t':
			n := tabStop - column%tabStop
			b.WriteString(strings.Repeat(" ", n))
			column += n
		case unicode.IsControl(r) || isBidi(r) || r == '\u2028' || r == '\u2029':
		default:
			b.WriteRune(r)
			column += runeWidth(r)
		}
		i += size
	}
	if open && !strings.HasSuffix(b.String(), reset) {
		b.WriteString(reset)
	}
	return b.String()
}

// maxColor is the length of the longest sequence of colours that is believed.
const maxColor = 64

// isColor reports whether an escape sequence is one of SGR: parameters of digits
// alone, so none of a terminal's own (CSI > … m changes what keys send).
func isColor(seq string) bool {
	inner, ok := strings.CutPrefix(seq, "\x1b[")
	if ok {
		inner, ok = strings.CutSuffix(inner, "m")
	}
	return ok && len(seq) <= maxColor && strings.Trim(inner, "0123456789;:") == ""
}

// lastVersion is what stands after the last carriage return that is followed
// by text.
func lastVersion(line string) string {
	line = strings.TrimRight(line, "\r\n")
	if i := strings.LastIndexByte(line, '\r'); i >= 0 {
		return line[i+1:]
	}
	return line
}

func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// isBidi says whether r changes the direction of text or hides it.
func isBidi(r rune) bool {
	return r >= 0x200e && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x061c
}

// escapeLength is the length of the escape sequence that s begins with: CSI,
// a string such as OSC, or a short one. A sequence without end ends with s.
func escapeLength(s string) int {
	r, i := utf8.DecodeRuneInString(s)
	if r == 0x1b {
		if len(s) == 1 {
			return 1
		}
		switch c := s[1]; {
		case c == '[':
			i = 2
		case strings.IndexByte("]PX^_", c) >= 0:
			return stringLength(s)
		case c >= 0x20 && c <= 0x2f: // with intermediate bytes
			for i = 2; i < len(s) && s[i] >= 0x20 && s[i] <= 0x2f; i++ {
			}
			return min(i+1, len(s))
		case c < 0x20 || c >= 0x7f: // an escape that introduces nothing
			return 1
		default:
			return 2
		}
	}
	for ; i < len(s); i++ {
		if s[i] >= 0x40 && s[i] <= 0x7e {
			return i + 1
		}
		if s[i] < 0x20 || s[i] > 0x3f { // broken off
			return i
		}
	}
	return i
}

// stringLength is the length of a control string: it ends with BEL or ESC \.
func stringLength(s string) int {
	for i := 2; i < len(s); i++ {
		if s[i] == 0x07 {
			return i + 1
		}
		if s[i] == 0x1b {
			if i+1 < len(s) && s[i+1] == '\\' {
				return i + 2
			}
			return i
		}
	}
	return len(s)
}

// runeWidth is the number of columns that r takes.
func runeWidth(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// textWidth is the number of columns that clean text takes; colours take none.
func textWidth(s string) int {
	n := 0
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == 0x1b {
			i += escapeLength(s[i:])
			continue
		}
		n += runeWidth(r)
		i += size
	}
	return n
}

// fit cuts s, which is clean, to columns; what was cut shows as an ellipsis.
func fit(s string, columns int) string {
	if textWidth(s) <= columns {
		return s
	}
	if columns < 1 {
		return ""
	}
	n := 1 // the ellipsis
	tinted := ""
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == 0x1b {
			i += escapeLength(s[i:])
			tinted = reset
			continue
		}
		if n += runeWidth(r); n > columns {
			return s[:i] + "…" + tinted
		}
		i += size
	}
	return s
}
