package events

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// CleanText returns s fit to be shown and sent: at most limit bytes of valid
// UTF-8, cut between characters with "…" where something is missing, without
// control characters other than newline and tab, without terminal escape
// sequences, and with user names and passwords in URLs replaced by "***".
func CleanText(s string, limit int) string {
	// What is beyond the limit is not worth the work; a margin keeps the
	// replacements from leaving the result needlessly short.
	if len(s) > 4*limit+64 {
		s = s[:4*limit+64] + "…"
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = redactURLs(stripControls(s))
	return clip(strings.TrimSpace(s), limit)
}

// clip cuts s to limit bytes, between characters.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const mark = "…"
	if limit < len(mark) {
		return ""
	}
	end := limit - len(mark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}

// stripControls removes control characters and the escape sequences that
// colour a terminal.
func stripControls(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); {
		if s[i] == 0x1b {
			i += escapeLength(s[i:])
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == '\n' || r == '\t' || !unicode.IsControl(r) {
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// escapeLength is the length of the escape sequence s starts with: ESC [ … and
// its final byte, or the ESC alone.
func escapeLength(s string) int {
	if len(s) < 2 || s[1] != '[' {
		return 1
	}
	for i := 2; i < len(s); i++ {
		if s[i] >= 0x40 && s[i] <= 0x7e {
			return i + 1
		}
	}
	return len(s)
}

// redactURLs replaces what stands between "://" and "@" within one authority.
func redactURLs(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "://")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("://")
		authority := after
		if end := strings.IndexAny(after, "/?# \t\n\"'<>"); end >= 0 {
			authority = after[:end]
		}
		if at := strings.LastIndexByte(authority, '@'); at >= 0 {
			b.WriteString("***")
			after = after[at:]
		}
		s = after
	}
}

// cleanAttribute returns s fit for a CloudEvents attribute: one line, bounded.
func cleanAttribute(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	return CleanText(s, MaxAttribute)
}
