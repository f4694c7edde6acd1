package view

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/kilnhook/kiln/executor/internal/progress"
)

// plain writes lines, each with the seconds since the build began and the number
// of the step that it belongs to. Numbers are given in the order in which steps
// are first heard of.
type plain struct {
	mu      sync.Mutex
	out     output
	thr     *throttle
	style   style
	steps   map[string]*plainStep
	account *account
	stamp   bool      // date and time before every line
	began   time.Time // the time of the first event
}

type plainStep struct {
	number  int
	started time.Time
	name    string // cleaned; "" until it is heard
	over    bool
}

func newPlain(w io.Writer, opt Options) *plain {
	return &plain{
		stamp: opt.Stamp, style: style{opt.Color}, out: output{w: w}, thr: newThrottle(),
		steps: map[string]*plainStep{}, account: newAccount(),
	}
}

// Event writes the lines of e in one piece.
func (p *plain) Event(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.began.IsZero() {
		p.began = e.Time
	}
	p.account.add(e)
	if p.out.closed || e.Kind == progress.KindBytes && !p.thr.pass(e) {
		return
	}
	var b bytes.Buffer
	switch e.Kind {
	case progress.KindStep:
		p.step(&b, e)
	case progress.KindOutput:
		s := p.lookUp(&b, e)
		fmt.Fprintf(&b, "#%d %s\n", s.number, p.style.foreign(e.Text))
	case progress.KindBytes:
		fmt.Fprintf(&b, "%s%s %s\n", p.about(e), transfer(e, p.nameOf(e.ID)), amount(e.Current, e.Total))
	case progress.KindNote:
		p.note(&b, e)
	case progress.KindResult:
		p.result(&b, e)
	}
	p.write(b.Bytes(), e.Time)
}

// write puts the time before every line.
func (p *plain) write(text []byte, at time.Time) {
	stamp := fmt.Sprintf("%7.2f ", max(at.Sub(p.began), 0).Seconds())
	if p.stamp {
		stamp = at.UTC().Format(time.RFC3339) + " "
	}
	var stamped bytes.Buffer
	for line := range bytes.Lines(text) {
		stamped.WriteString(stamp)
		stamped.Write(line)
	}
	p.out.write(stamped.Bytes())
}

func (p *plain) step(b *bytes.Buffer, e Event) {
	s := p.lookUp(b, e)
	if s.over && e.State == progress.StateStarted { // another attempt of the build begins it anew
		s.started = e.Time
		fmt.Fprintf(b, "#%d %s\n", s.number, s.name)
	}
	s.over = e.State != progress.StateStarted
	switch e.State {
	case progress.StateDone:
		fmt.Fprintf(b, "#%d DONE %s\n", s.number, seconds(s.took(e)))
	case progress.StateCached:
		fmt.Fprintf(b, "#%d CACHED\n", s.number)
	case progress.StateFailed:
		for line := range strings.Lines(orElse(e.Error, "failed")) {
			fmt.Fprintf(b, "#%d ERROR: %s\n", s.number, Clean(line))
		}
	}
}

// lookUp returns the step of e and writes its name if it is new.
func (p *plain) lookUp(b *bytes.Buffer, e Event) *plainStep {
	s := p.steps[e.ID]
	if s == nil {
		s = &plainStep{number: len(p.steps) + 1, started: e.Time}
		p.steps[e.ID] = s
	}
	if s.name == "" && e.Name != "" && e.Kind == progress.KindStep {
		s.name = Clean(e.Name)
		fmt.Fprintf(b, "#%d %s\n", s.number, s.name)
	}
	return s
}

// about is the number of the step of e, if it has one.
func (p *plain) about(e Event) string {
	if s := p.steps[e.ID]; e.ID != "" && s != nil {
		return fmt.Sprintf("#%d ", s.number)
	}
	return ""
}

func (p *plain) nameOf(id string) string {
	if s := p.steps[id]; s != nil {
		return s.name
	}
	return ""
}

func (s *plainStep) took(e Event) time.Duration {
	if e.MS > 0 {
		return time.Duration(e.MS) * time.Millisecond
	}
	return e.Time.Sub(s.started)
}

func (p *plain) note(b *bytes.Buffer, e Event) {
	prefix := p.about(e)
	if e.Pos != "" {
		prefix += Clean(e.Pos) + ": "
	}
	for line := range strings.Lines(e.Text) {
		fmt.Fprintf(b, "%s%s\n", prefix, labelled(Clean(line)))
	}
}

// labelled is a note with what it is before it; a warning says so itself.
func labelled(note string) string {
	if strings.HasPrefix(note, "warning: ") {
		return note
	}
	return "note: " + note
}

func (p *plain) result(b *bytes.Buffer, e Event) {
	label, text := "DONE ", e.Text
	if e.Error != "" || e.State == progress.StateFailed {
		label, text = "ERROR: ", orElse(e.Error, e.Text)
	} else {
		for _, line := range p.account.table(plainColumns, style{}) {
			b.WriteString(line + "\n")
		}
	}
	for line := range strings.Lines(orElse(text, "\n")) {
		fmt.Fprintf(b, "%s%s\n", label, Clean(line))
	}
}

func (p *plain) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.closed = true
	return p.out.err
}

// transfer says what is on its way, for a step of the given name.
func transfer(e Event, step string) string {
	name := Clean(e.Name)
	switch {
	case name == "" || name == step:
		return string(e.Phase)
	case strings.HasPrefix(name, string(e.Phase)):
		return name
	}
	return string(e.Phase) + " " + name
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}
