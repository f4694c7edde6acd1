// Package show writes for people: log lines with a progress bar below them on
// a terminal, plain lines otherwise, and tables.
package show

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/executor/view"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// barEvery is how often a bar is drawn at most.
const barEvery = 100 * time.Millisecond

// Terminal is where a Screen writes to, if it is one.
type Terminal struct {
	Size func() (columns, rows int) // nil: it is none
	view.Abilities
}

// Screen writes lines and, on a terminal, one bar below the last of them. It
// is safe for concurrent use.
type Screen struct {
	out  io.Writer
	term Terminal
	now  func() time.Time

	mu    sync.Mutex
	drawn bool // a bar stands below the last line
	last  time.Time
	err   error
}

// New returns a Screen on out.
func New(out io.Writer, term Terminal, now func() time.Time) *Screen {
	return &Screen{out: out, term: term, now: now}
}

// Line writes one line above the bar.
func (s *Screen) Line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	s.write(fmt.Sprintf(format, args...) + "\n")
}

// Bar draws how far something is. Where total is 0 it is not known. Without a
// terminal nothing is drawn.
func (s *Screen) Bar(label string, current, total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.term.Size == nil || s.term.Dumb || s.drawn && now.Sub(s.last) < barEvery {
		return
	}
	s.last = now
	columns, _ := s.term.Size()
	s.write("\r\x1b[K" + bar(label, current, total, columns))
	s.drawn = true
}

// bar is a bar of at most width columns.
func bar(label string, current, total int64, width int) string {
	amount := buildlog.Bytes(current)
	const cells = 24
	if total > 0 {
		done := int(cells * min(current, total) / total)
		amount = strings.Repeat("█", done) + strings.Repeat("░", cells-done) + fmt.Sprintf(" %s of %s", amount, buildlog.Bytes(total))
	}
	room := width - utf8.RuneCountInString(amount) - 2
	if room < 4 {
		return cut(amount, width-1)
	}
	return cut(label, room) + " " + amount
}

// cut shortens text to n characters.
func cut(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:max(n-1, 0)]) + "…"
	}
	return text
}

// Clear takes the bar away.
func (s *Screen) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
}

func (s *Screen) clear() {
	if s.drawn {
		s.write("\r\x1b[K")
		s.drawn = false
	}
}

func (s *Screen) write(text string) {
	if s.err == nil {
		_, s.err = io.WriteString(s.out, text)
	}
}

// Err is the first error of writing.
func (s *Screen) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Verdict says in a line or two how a build ended.
func Verdict(s *Screen, b api.Build) {
	r := b.Result
	if r == nil {
		s.Line("build %s is %s", buildlog.Short(b.ID), b.State)
		return
	}
	took := ""
	if !r.StartedAt.IsZero() && !r.FinishedAt.Before(r.StartedAt) {
		took = " in " + buildlog.Duration(r.FinishedAt.Sub(r.StartedAt).Milliseconds())
	}
	if r.Outcome != events.OutcomeSuccess {
		s.Line("build %s: %s%s", buildlog.Short(b.ID), word(*r), took)
		why := r.Message
		if why == "" {
			why = r.Reason
		}
		for line := range strings.SplitSeq(why, "\n") {
			s.Line("  %s", buildlog.Clean(line))
		}
		return
	}
	s.Line("build %s: success%s", buildlog.Short(b.ID), took)
	if b.Request.Image != "" {
		s.Line("%s@%s", b.Request.Image, r.Digest)
	}
	for _, p := range r.Platforms {
		s.Line("  %s %s", buildlog.Clean(p.String()), p.Digest)
	}
}

// word is outcome and class.
func word(r events.Result) string {
	if r.Class != "" {
		return fmt.Sprintf("%s (%s)", r.Outcome, r.Class)
	}
	return string(r.Outcome)
}
