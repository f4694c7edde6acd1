package progress

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// screen is as much of a terminal as the live view uses.
type screen struct {
	lines []string
	row   int
}

func (s *screen) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		switch {
		case p[0] == '\n':
			s.row++
			p = p[1:]
		case p[0] == '\r':
			p = p[1:]
		case bytes.HasPrefix(p, []byte("\x1b[J")):
			s.lines = s.lines[:min(s.row, len(s.lines))]
			p = p[3:]
		case p[0] == 0x1b:
			var arg int
			var cmd byte
			if _, err := fmt.Sscanf(string(p), "\x1b[%d%c", &arg, &cmd); err != nil {
				return 0, fmt.Errorf("unknown sequence %q", p)
			}
			if cmd == 'A' {
				s.row -= arg
			}
			p = p[bytes.IndexByte(p, cmd)+1:]
		default:
			i := bytes.IndexAny(p, "\n\r\x1b")
			for len(s.lines) <= s.row {
				s.lines = append(s.lines, "")
			}
			s.lines[s.row] += string(p[:i])
			p = p[i:]
		}
	}
	return n, nil
}

func (s *screen) String() string { return strings.Join(s.lines, "\n") + "\n" }

// Running steps are at the bottom and change, finished ones stay above them,
// and nothing is wider than the terminal.
func TestLiveView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scr := &screen{}
		r, err := New(scr, Options{Mode: "tty", Now: time.Now, Width: func() int { return 40 }})
		if err != nil {
			t.Fatal(err)
		}
		send := func(e Event) {
			e.Time = time.Now()
			r.Event(e)
		}
		wait := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		var shots strings.Builder
		shot := func(name string) {
			for _, l := range scr.lines {
				if textWidth(l) > 39 {
					t.Errorf("%s: %q is too wide", name, l)
				}
			}
			shots.WriteString("-- " + name + " --\n" + scr.String())
		}
		send(Event{Kind: KindStep, ID: "1", Name: "[a 1/2] COPY \x1b[31mx y", State: StateCached})
		send(Event{Kind: KindStep, ID: "2", Name: "[a 2/2] RUN a very long command that does not fit", State: StateStarted})
		for i := range 6 {
			send(Event{Kind: KindOutput, ID: "2", Text: fmt.Sprintf("line %d", i)})
		}
		wait(2 * time.Second)
		shot("running")
		for i := range 8 {
			send(Event{Kind: KindStep, ID: fmt.Sprint("s", i), Name: fmt.Sprint("push layer ", i), State: StateStarted})
		}
		send(Event{Kind: KindBytes, ID: "s0", Phase: PhasePush, Current: 1_500_000, Total: 3_000_000})
		wait(time.Second)
		shot("many")
		for i := range 8 {
			send(Event{Kind: KindStep, ID: fmt.Sprint("s", i), State: StateDone})
			send(Event{Kind: KindStep, ID: fmt.Sprint("s", i), State: StateDone}) // told twice
		}
		send(Event{Kind: KindNote, Pos: "Dockerfile:3", Text: "mind the gap"})
		send(Event{Kind: KindStep, ID: "2", State: StateFailed, Error: "exit status 1"})
		wait(time.Second)
		shot("failed")
		send(Event{Kind: KindResult, State: StateFailed, Text: "short text"})
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		shot("closed")
		golden(t, "tty.txt", shots.String())
	})
}

// Closing early leaves no running step on the screen.
func TestLiveViewClosedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scr := &screen{}
		r, err := New(scr, Options{Now: time.Now, Width: func() int { return 80 }})
		if err != nil {
			t.Fatal(err)
		}
		r.Event(Event{Kind: KindStep, ID: "1", Name: "RUN sleep", State: StateStarted})
		time.Sleep(time.Second)
		synctest.Wait()
		if !strings.Contains(scr.String(), "> RUN sleep") {
			t.Errorf("screen = %q", scr.String())
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(scr.String()); got != "" {
			t.Errorf("screen after Close = %q", got)
		}
	})
}
