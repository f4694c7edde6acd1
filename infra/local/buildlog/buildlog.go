// Package buildlog turns what an executor says, one events.Progress a line,
// into something a person reads: steps with their durations, and plain lines.
package buildlog

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/kilnhook/kiln/events"
)

// Step is one step of a build as far as the log tells.
type Step struct {
	Number  int       `json:"number"` // order of appearance, from 1
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Phase   string    `json:"phase,omitempty"`
	State   string    `json:"state"` // started, done, cached or failed
	Started time.Time `json:"started,omitzero"`
	MS      int64     `json:"ms,omitempty"` // milliseconds it took
	Error   string    `json:"error,omitempty"`
	Pos     string    `json:"pos,omitempty"` // "Dockerfile:7"
	Current int64     `json:"current,omitempty"`
	Total   int64     `json:"total,omitempty"` // bytes; 0 is unknown
}

// Reader follows a build's log line by line. The zero value is ready.
type Reader struct {
	steps []*Step
	byID  map[string]*Step
}

// Steps are the steps seen so far in the order of appearance.
func (r *Reader) Steps() []Step {
	steps := make([]Step, len(r.steps))
	for i, s := range r.steps {
		steps[i] = *s
	}
	return steps
}

// Parse reads one line of a log. What is no progress object becomes a note.
func Parse(line []byte) events.Progress {
	var p events.Progress
	if err := json.Unmarshal(line, &p); err != nil || p.Kind == "" {
		return events.Progress{Kind: events.ProgressNote, Text: strings.TrimSpace(string(line))}
	}
	return p
}

// Add takes one line and returns how it reads: none, one or more lines without
// newline, free of control characters.
func (r *Reader) Add(p events.Progress) []string {
	switch p.Kind {
	case events.ProgressStep:
		return r.step(p)
	case events.ProgressBytes:
		if s := r.byID[p.ID]; s != nil {
			s.Current, s.Total = p.Current, p.Total
		}
		return nil
	case events.ProgressOutput:
		s := r.get(p)
		return prefix(fmt.Sprintf("#%d %s", s.Number, since(s.Started, p.Time)), p.Text)
	case events.ProgressResult:
		if p.Error != "" {
			return prefix("ERROR:", p.Error)
		}
		return prefix("result:", p.Text)
	case events.ProgressPhase, events.ProgressLayer:
		return nil // for programs
	default:
		return prefix("--", p.Text)
	}
}

func (r *Reader) step(p events.Progress) []string {
	if s := r.byID[p.ID]; s != nil && s.State != "" && p.State == events.StepStarted {
		if s.State == events.StepStarted && s.Phase != p.Phase {
			s.Phase = p.Phase // the same step goes on to its next phase
			return nil
		}
		delete(r.byID, p.ID) // another attempt of the build begins it anew
	}
	s := r.get(p)
	head := fmt.Sprintf("#%d", s.Number)
	first := s.State == ""
	if p.Name != "" {
		s.Name = p.Name
	}
	s.State = p.State
	if p.MS > 0 {
		s.MS = p.MS
	} else if p.State != events.StepStarted && !s.Started.IsZero() && p.Time.After(s.Started) {
		s.MS = p.Time.Sub(s.Started).Milliseconds()
	}
	var lines []string
	if first {
		lines = prefix(head, s.Name)
	}
	switch p.State {
	case events.StepStarted:
		s.Started = p.Time
	case events.StepDone:
		lines = append(lines, head+" done "+Duration(s.MS))
	case events.StepCached:
		lines = append(lines, head+" cached")
	case events.StepFailed:
		s.Error, s.Pos = p.Error, p.Pos
		text := "failed"
		if p.Error != "" {
			text += ": " + p.Error
		}
		if p.Pos != "" && !strings.Contains(p.Error, p.Pos) {
			text = p.Pos + ": " + text
		}
		lines = append(lines, prefix(head, text)...)
	}
	return lines
}

// Label names what a line of bytes is about: its step, or else the blob that
// is on its way.
func (r *Reader) Label(p events.Progress) string {
	if s := r.byID[p.ID]; s != nil && p.ID != "" {
		return Clean(fmt.Sprintf("#%d %s", s.Number, s.Name))
	}
	return Clean(strings.TrimSpace(p.Phase + " " + p.Name))
}

// get finds the step of a line, or makes it known.
func (r *Reader) get(p events.Progress) *Step {
	if r.byID == nil {
		r.byID = map[string]*Step{}
	}
	key := p.ID
	if key == "" {
		key = "\x00" + p.Name
	}
	if s := r.byID[key]; s != nil {
		return s
	}
	s := &Step{Number: len(r.steps) + 1, ID: p.ID, Name: p.Name, Phase: p.Phase}
	r.byID[key] = s
	r.steps = append(r.steps, s)
	return s
}

// prefix puts head in front of every line of text.
func prefix(head, text string) []string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		lines = append(lines, strings.TrimRight(head+" "+Clean(line), " "))
	}
	return lines
}

// Clean returns one line without what could move a terminal's cursor or change
// its colours. Of text that overwrites itself with carriage returns, as
// progress bars do, the last state stays.
func Clean(s string) string {
	s = strings.TrimRight(s, "\r")
	if i := strings.LastIndexByte(s, '\r'); i >= 0 {
		s = s[i+1:]
	}
	var b strings.Builder
	rest := strings.ToValidUTF8(s, "\uFFFD")
	for rest != "" {
		if rest[0] == 0x1b {
			rest = rest[escape(rest):]
			continue
		}
		r, n := utf8.DecodeRuneInString(rest)
		rest = rest[n:]
		if r == '\t' || !unicode.IsControl(r) && !unicode.Is(unicode.Bidi_Control, r) {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// escape is the length of the terminal sequence that s begins with.
func escape(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[': // up to a final byte
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']': // up to BEL or ESC \
		for i := 2; i < len(s); i++ {
			if s[i] == 0x07 {
				return i + 1
			}
			if s[i] == 0x1b && i+1 < len(s) {
				return i + 2
			}
		}
		return len(s)
	}
	return 2
}

func since(from, to time.Time) string {
	if from.IsZero() || to.Before(from) {
		return "0.0s"
	}
	return fmt.Sprintf("%.1fs", to.Sub(from).Seconds())
}

// Duration writes milliseconds as people do: 12ms, 1.2s, 3m04s.
func Duration(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", ms)
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
}

// Bytes writes a number of bytes as people do, in powers of 1000.
func Bytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	f, i := float64(n), 0
	for f >= 999.5 && i < len(units)-1 {
		f /= 1000
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
