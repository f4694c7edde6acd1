// Package view shows people and programs what a build says: a live tree on a
// terminal, plain lines elsewhere, and lines of JSON. The executor shows its
// own build with it, and kiln those of others.
package view

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/kilnhook/kiln/executor/internal/progress"
)

// Event is what a build says; its JSON form is a line of --progress=json.
type Event = progress.Event

// Renderer shows events to somebody.
type Renderer interface {
	// Event shows e. It is safe for concurrent use.
	Event(e Event)
	// Close shows what is still to be shown, gives the terminal back as it
	// was, and returns the first error of the writer. Events after Close are
	// dropped.
	Close() error
}

// Options of a renderer.
type Options struct {
	// Mode is one of Modes; "" is auto.
	Mode string
	// Size returns the columns and rows of the terminal, 0 if there is none;
	// it is asked before every redraw. nil: no terminal.
	Size func() (columns, rows int)
	// Now is the clock that running steps are timed with. It is needed for a
	// live view only; without one there is none.
	Now func() time.Time
	// Stamp puts date and time before every plain line in place of the
	// seconds since the build began. There is no live view then, and JSON has
	// the time anyway.
	Stamp bool
	Abilities
}

// Abilities are what a terminal can and may do.
type Abilities struct {
	// Dumb knows nothing but lines.
	Dumb bool
	// Color allows colours: our own, and those in what a RUN prints. All other
	// control characters are removed from that whatever Color says.
	Color bool
	// Reflow wraps lines anew when it becomes narrower.
	Reflow bool
}

// AbilitiesOf says what the environment does of the terminal: TERM, NO_COLOR
// (no-color.org), and which programs set that do not wrap lines anew: the
// kernel's console, xterm, rxvt and GNU screen.
func AbilitiesOf(getenv func(string) string) Abilities {
	term := getenv("TERM")
	rigid := getenv("XTERM_VERSION") != "" || getenv("STY") != "" || term == "linux" || strings.HasPrefix(term, "rxvt")
	dumb := term == "dumb"
	return Abilities{Dumb: dumb, Color: !dumb && getenv("NO_COLOR") == "", Reflow: !rigid}
}

// Modes are the ways to show a build: auto is tty where Size says that there is
// a terminal of use, and plain elsewhere.
func Modes() []string { return []string{"auto", "tty", "plain", "json"} }

// A terminal that is narrower or lower than this has plain lines.
const (
	minColumns = 20
	minRows    = 4
)

// New returns a renderer that writes to w. An unknown mode is an error. "tty"
// on something that is no terminal falls back to plain lines.
func New(w io.Writer, opt Options) (Renderer, error) {
	switch opt.Mode {
	case "", "auto", "tty":
		if opt.live() {
			return newTerminal(w, opt), nil
		}
		return newPlain(w, opt), nil
	case "plain":
		return newPlain(w, opt), nil
	case "json":
		return newLines(w), nil
	}
	return nil, fmt.Errorf("progress mode %q is unknown: use auto, tty, plain or json", opt.Mode)
}

// live reports whether a live view can be had.
func (o Options) live() bool {
	if o.Stamp || o.Dumb || o.Now == nil || o.Size == nil {
		return false
	}
	columns, rows := o.Size()
	return columns >= minColumns && rows >= minRows
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
	if l.out.closed || e.Kind == progress.KindBytes && !l.thr.pass(e) {
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
