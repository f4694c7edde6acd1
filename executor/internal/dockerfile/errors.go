package dockerfile

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Pos is a line of a file.
type Pos struct {
	File string
	Line int // from 1
}

// String returns the position as compilers write it, "Dockerfile:7".
func (p Pos) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// Error is a fault of a Dockerfile, or of a step that it asks for. It prints as
//
//	Dockerfile:12: COPY --chmod=9z a /a: invalid mode "9z"
type Error struct {
	Pos  Pos
	Text string // the instruction as written; "" if none
	Err  error
}

// Error implements error. A long instruction is shortened.
func (e *Error) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("%s: %v", e.Pos, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.Pos, Shorten(e.Text), e.Err)
}

// Unwrap returns what went wrong.
func (e *Error) Unwrap() error { return e.Err }

// maxText is how much of an instruction messages show, in runes.
const maxText = 100

// Shorten makes an instruction fit into a message: one line of at most 100
// characters, with an ellipsis for what was left out.
func Shorten(text string) string {
	if len(text) > 4*maxText*utf8.UTFMax {
		text = text[:4*maxText*utf8.UTFMax]
	}
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "\uFFFD")
	if utf8.RuneCountInString(text) <= maxText {
		return text
	}
	return string([]rune(text)[:maxText-1]) + "…"
}

// Warning is a finding that does not stop a build, unless the Dockerfile says
// "# check=error=true".
type Warning struct {
	Pos     Pos
	Rule    string // BuildKit's name of the rule, such as "StageNameCasing"
	Message string
	URL     string // where the rule is explained; "" if nowhere
}

// RuleSyntaxIgnored is the rule of a warning that BuildKit does not have: the
// file names a syntax image and none is ever run.
const RuleSyntaxIgnored = "SyntaxIgnored"

// String returns the warning as one line.
func (w Warning) String() string { return fmt.Sprintf("%s: %s: %s", w.Pos, w.Rule, w.Message) }
