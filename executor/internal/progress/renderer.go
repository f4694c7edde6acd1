package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Renderer shows events to somebody.
type Renderer interface {
	// Event shows e. It is a Sink: safe for concurrent use.
	Event(e Event)
	// Close shows what is still to be shown and returns the first error of
	// the writer. Events after Close are dropped.
	Close() error
}

// Options of a renderer.
type Options struct {
	// Mode is "auto" (the default), "tty", "plain" or "json". auto is a live
	// view if Width says that there is a terminal, else plain lines.
	Mode string
	// Width returns the columns of the terminal, 0 if there is none; it is
	// asked before every redraw. nil: no terminal.
	Width func() int
	// Now is the clock that running steps are timed with. It is needed for a
	// live view only; without one there is none.
	Now func() time.Time
	// Stamp puts the time of day before every plain line. There is no live
	// view then, and JSON has the time anyway.
	Stamp bool
}

// minWidth is the narrowest terminal that a live view is of use on.
const minWidth = 20

// New returns a renderer that writes to w. An unknown mode is an error. "tty"
// on something that is no terminal falls back to plain lines.
func New(w io.Writer, opt Options) (Renderer, error) {
	live := !opt.Stamp && opt.Now != nil && opt.Width != nil && opt.Width() >= minWidth
	switch opt.Mode {
	case "", "auto", "tty":
		if live {
			return newTTY(w, opt.Width, opt.Now), nil
		}
		return newPlain(w, opt.Stamp), nil
	case "plain":
		return newPlain(w, opt.Stamp), nil
	case "json":
		return newLines(w), nil
	}
	return nil, fmt.Errorf("progress mode %q is unknown: use auto, tty, plain or json", opt.Mode)
}

// output is a writer that remembers its first error and writes nothing after
// it.
type output struct {
	w      io.Writer
	err    error
	closed bool
}

func (o *output) write(p []byte) {
	if o.err == nil && len(p) > 0 {
		_, o.err = o.w.Write(p)
	}
}

// lines writes one JSON object a line.
type lines struct {
	mu  sync.Mutex
	out output
	thr *throttle
}

func newLines(w io.Writer) *lines { return &lines{out: output{w: w}, thr: newThrottle()} }

func (l *lines) Event(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out.closed || e.Kind == KindBytes && !l.thr.pass(e) {
		return
	}
	line, err := json.Marshal(e)
	if err != nil { // a time out of range; nothing else can fail
		e.Time = time.Time{}
		line, err = json.Marshal(e)
	}
	if err == nil {
		l.out.write(append(line, '\n'))
	}
}

func (l *lines) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.closed = true
	return l.out.err
}
