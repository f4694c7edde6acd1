package progress

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// plain writes lines, each with the number of the step that it belongs to.
// Numbers are given in the order in which steps are first heard of.
type plain struct {
	mu    sync.Mutex
	out   output
	thr   *throttle
	steps map[string]*plainStep
	stamp bool // before every line
}

type plainStep struct {
	number  int
	started time.Time
	named   bool
}

func newPlain(w io.Writer, stamp bool) *plain {
	return &plain{stamp: stamp, out: output{w: w}, thr: newThrottle(), steps: map[string]*plainStep{}}
}

// Event writes the lines of e in one piece.
func (p *plain) Event(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.closed || e.Kind == KindBytes && !p.thr.pass(e) {
		return
	}
	var b bytes.Buffer
	switch e.Kind {
	case KindStep:
		p.step(&b, e)
	case KindOutput:
		s := p.lookUp(&b, e)
		fmt.Fprintf(&b, "#%d %.3f %s\n", s.number, max(e.Time.Sub(s.started), 0).Seconds(), Clean(e.Text))
	case KindBytes:
		s := p.lookUp(&b, e)
		fmt.Fprintf(&b, "#%d %s%s %s\n", s.number, phrase(e), amount(e), seconds(e.Time.Sub(s.started)))
	case KindNote:
		p.note(&b, e)
	case KindResult:
		p.result(&b, e)
	}
	if !p.stamp {
		p.out.write(b.Bytes())
		return
	}
	var stamped bytes.Buffer
	for line := range bytes.Lines(b.Bytes()) {
		stamped.WriteString(e.Time.UTC().Format(time.RFC3339) + " ")
		stamped.Write(line)
	}
	p.out.write(stamped.Bytes())
}

func (p *plain) step(b *bytes.Buffer, e Event) {
	s := p.lookUp(b, e)
	switch e.State {
	case StateDone:
		fmt.Fprintf(b, "#%d DONE %s\n", s.number, seconds(s.took(e)))
	case StateCached:
		fmt.Fprintf(b, "#%d CACHED\n", s.number)
	case StateFailed:
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
	if !s.named && e.Name != "" && e.Kind == KindStep {
		s.named = true
		fmt.Fprintf(b, "#%d %s\n", s.number, Clean(e.Name))
	}
	return s
}

func (s *plainStep) took(e Event) time.Duration {
	if e.MS > 0 {
		return time.Duration(e.MS) * time.Millisecond
	}
	return e.Time.Sub(s.started)
}

func (p *plain) note(b *bytes.Buffer, e Event) {
	prefix := ""
	if s := p.steps[e.ID]; e.ID != "" && s != nil {
		prefix = fmt.Sprintf("#%d ", s.number)
	}
	if e.Pos != "" {
		prefix += Clean(e.Pos) + ": "
	}
	for line := range strings.Lines(e.Text) {
		fmt.Fprintf(b, "%snote: %s\n", prefix, Clean(line))
	}
}

func (p *plain) result(b *bytes.Buffer, e Event) {
	label := "DONE "
	text := e.Text
	if e.Error != "" || e.State == StateFailed {
		label, text = "ERROR: ", orElse(e.Error, e.Text)
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

// phrase says what is being transferred, with a space after it.
func phrase(e Event) string {
	words := make([]string, 0, 3)
	if e.Phase != "" {
		words = append(words, string(e.Phase))
	}
	if e.Name != "" {
		words = append(words, Clean(e.Name))
	}
	return strings.Join(append(words, ""), " ")
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}
