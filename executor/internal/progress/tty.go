package progress

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// The live view is kept small, so that it fits every terminal.
const (
	maxActive   = 6                      // running steps shown
	maxOutput   = 4                      // lines of output shown under a running step
	keptOutput  = 40                     // lines of output kept for the case of failure
	redrawEvery = 150 * time.Millisecond // between two redraws
)

// tty is a live view of a build: what is over scrolls by, what is running is
// drawn over and over again at the bottom of the screen.
type tty struct {
	width func() int
	now   func() time.Time
	stop  chan struct{} // closed by Close
	done  chan struct{} // closed when the redrawing goroutine is gone

	mu      sync.Mutex // guards the rest
	out     output
	steps   map[string]*liveStep
	active  []*liveStep // in order of their start
	over    int         // number of finished steps
	started time.Time
	drawn   int          // lines of the live part on the screen
	above   bytes.Buffer // finished lines that are not on the screen yet
}

type liveStep struct {
	name    string
	started time.Time
	bytes   string
	lines   []string // the last of its output
	running bool
	over    bool
}

func newTTY(w io.Writer, width func() int, now func() time.Time) *tty {
	t := &tty{
		width: width, now: now, out: output{w: w}, started: now(),
		steps: map[string]*liveStep{}, stop: make(chan struct{}), done: make(chan struct{}),
	}
	go t.redraw()
	return t
}

// redraw draws the view from time to time until Close.
func (t *tty) redraw() {
	defer close(t.done)
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-tick.C:
			t.mu.Lock()
			if !t.out.closed {
				t.draw(true)
			}
			t.mu.Unlock()
		}
	}
}

func (t *tty) Event(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out.closed {
		return
	}
	switch e.Kind {
	case KindStep:
		t.step(e)
	case KindOutput:
		s := t.lookUp(e)
		if s.lines = append(s.lines, Clean(e.Text)); len(s.lines) > keptOutput {
			s.lines = append(s.lines[:0], s.lines[1:]...)
		}
	case KindBytes:
		t.lookUp(e).bytes = strings.TrimSpace(phrase(Event{Phase: e.Phase})) + " " + amount(e)
	case KindNote:
		prefix := ""
		if e.Pos != "" {
			prefix = Clean(e.Pos) + ": "
		}
		for line := range strings.Lines(e.Text) {
			t.print("note: "+prefix+Clean(line), "")
		}
	case KindResult:
		t.result(e)
	}
}

func (t *tty) lookUp(e Event) *liveStep {
	s := t.steps[e.ID]
	if s == nil {
		s = &liveStep{name: e.ID, started: e.Time}
		t.steps[e.ID] = s
	}
	return s
}

func (t *tty) step(e Event) {
	s := t.lookUp(e)
	if e.Name != "" {
		s.name = Clean(e.Name)
	}
	if e.State == StateStarted && !s.running {
		s.running, s.over, s.started = true, false, t.now()
		t.active = append(t.active, s)
	}
	if !e.State.final() || s.over {
		return
	}
	s.over = true
	t.over++
	t.active = without(t.active, s)
	took := t.now().Sub(s.started)
	if e.MS > 0 {
		took = time.Duration(e.MS) * time.Millisecond
	}
	switch e.State {
	case StateDone:
		t.print("✓ "+s.name, seconds(took))
	case StateCached:
		t.print("✓ "+s.name, "cached")
	case StateFailed:
		t.print("✗ "+s.name, seconds(took))
		for _, line := range s.lines {
			t.print("    "+line, "")
		}
		for line := range strings.Lines(e.Error) {
			t.print("  "+Clean(line), "")
		}
	}
	s.running, s.lines = false, nil
}

func (t *tty) result(e Event) {
	mark, text := "✓ ", e.Text
	if e.Error != "" || e.State == StateFailed {
		mark, text = "✗ ", orElse(e.Error, e.Text)
	}
	for line := range strings.Lines(text) {
		t.above.WriteString(mark + Clean(line) + "\n") // never cut: it is what people copy
	}
}

func without(list []*liveStep, s *liveStep) []*liveStep {
	kept := list[:0]
	for _, other := range list {
		if other != s {
			kept = append(kept, other)
		}
	}
	return kept
}

// print adds a finished line, with something at its right end.
func (t *tty) print(left, right string) {
	t.above.WriteString(join(left, right, t.columns()) + "\n")
}

func (t *tty) columns() int { return max(t.width(), minWidth) - 1 }

// join puts left and right at the two ends of a line.
func join(left, right string, columns int) string {
	if right == "" {
		return fit(left, columns)
	}
	left = fit(left, columns-textWidth(right)-1)
	return left + strings.Repeat(" ", max(columns-textWidth(left)-textWidth(right), 1)) + right
}

// draw replaces the live part: finished lines scroll up, then what is running
// follows if live. The screen is written to in one piece.
func (t *tty) draw(live bool) {
	var b bytes.Buffer
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", t.drawn)
	}
	if t.drawn > 0 || t.above.Len() > 0 {
		b.WriteString("\r\x1b[J")
	}
	b.Write(t.above.Bytes())
	t.above.Reset()
	t.drawn = 0
	if live && len(t.active) > 0 {
		for _, line := range t.view() {
			b.WriteString(line + "\n")
			t.drawn++
		}
	}
	t.out.write(b.Bytes())
}

// view is the live part of the screen.
func (t *tty) view() []string {
	columns, now := t.columns(), t.now()
	head := fmt.Sprintf("building %s, %d done", seconds(now.Sub(t.started)), t.over)
	out := []string{fit(head, columns)}
	shown := t.active
	if len(shown) > maxActive {
		shown = shown[:maxActive]
	}
	for _, s := range shown {
		right := seconds(now.Sub(s.started))
		if s.bytes != "" {
			right = s.bytes + "  " + right
		}
		out = append(out, join("> "+s.name, right, columns))
		last := s.lines
		if len(last) > maxOutput {
			last = last[len(last)-maxOutput:]
		}
		for _, line := range last {
			out = append(out, "\x1b[2m"+fit("    "+line, columns)+"\x1b[0m")
		}
	}
	if n := len(t.active) - len(shown); n > 0 {
		out = append(out, fit(fmt.Sprintf("  and %d more", n), columns))
	}
	return out
}

func (t *tty) Close() error {
	t.mu.Lock()
	if t.out.closed {
		defer t.mu.Unlock()
		return t.out.err
	}
	t.out.closed = true
	t.draw(false)
	t.mu.Unlock()
	close(t.stop)
	<-t.done
	return t.out.err
}
