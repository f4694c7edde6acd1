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

// redrawEvery is the time between two redraws.
const redrawEvery = 150 * time.Millisecond

// Sequences of ECMA-48 and, for the cursor, of DEC, which every terminal knows.
const (
	hideCursor = "\x1b[?25l"
	// ShowCursor gives back the cursor that a live view hides. Close writes
	// it; whoever ends a program without Close does.
	ShowCursor = "\x1b[?25h"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
)

// terminal is a live view of a build: what is over scrolls by, what goes on is
// drawn over and over again at the bottom of the screen.
type terminal struct {
	opt  Options
	stop chan struct{} // closed by Close
	done chan struct{} // closed when the redrawing goroutine is gone

	mu      sync.Mutex // guards the rest
	out     output
	tree    *tree
	account *account
	above   []string // lines to be kept that are not on the screen yet
	drawn   []int    // widths of the lines of the tree on the screen
	columns int      // of the terminal when they were drawn
	hidden  bool     // the cursor is
}

func newTerminal(w io.Writer, opt Options) *terminal {
	s := style{opt.Color}
	t := &terminal{
		opt: opt, out: output{w: w}, tree: newTree(s, opt.Now()), account: newAccount(),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	t.columns, _ = t.size()
	go t.redraw()
	return t
}

// size is that of the terminal; at least the smallest that is of use.
func (t *terminal) size() (columns, rows int) {
	columns, rows = t.opt.Size()
	return max(columns, minColumns), max(rows, minRows)
}

// redraw draws the view from time to time until Close.
func (t *terminal) redraw() {
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

// Event takes e into the view.
func (t *terminal) Event(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out.closed {
		return
	}
	t.account.add(e)
	columns, _ := t.size()
	if e.Kind == progress.KindResult {
		t.result(e, columns)
		return
	}
	t.above = append(t.above, t.tree.add(e, t.opt.Now(), columns-1)...)
}

// result tells the end. Its text is never cut: it is what people copy.
func (t *terminal) result(e Event, columns int) {
	s := t.tree.style
	if e.Error != "" || e.State == progress.StateFailed {
		for line := range strings.Lines(orElse(e.Error, e.Text)) {
			t.above = append(t.above, s.red("✗ ")+Clean(line))
		}
		return
	}
	t.above = append(t.above, t.account.table(columns-1, s)...)
	for line := range strings.Lines(e.Text) {
		t.above = append(t.above, s.green("✓ ")+Clean(line))
	}
}

// draw replaces the tree: lines that are over scroll up, then what goes on
// follows if live. The screen is written to in one piece.
func (t *terminal) draw(live bool) {
	columns, rows := t.size()
	var tree []string
	if live {
		tree = t.tree.draw(t.opt.Now(), columns-1, rows-1)
	}
	if len(tree) == 0 && len(t.drawn) == 0 && len(t.above) == 0 {
		return
	}
	var b bytes.Buffer
	if live && !t.hidden {
		b.WriteString(hideCursor)
		t.hidden = true
	}
	if up := min(t.height(columns), rows-1); up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	b.WriteString("\r")
	if columns != t.columns {
		b.WriteString(clearBelow) // lines that were wrapped leave remains
	}
	for _, line := range t.above {
		b.WriteString(line + clearLine + "\n")
	}
	t.drawn = t.drawn[:0]
	for _, line := range tree {
		b.WriteString(line + clearLine + "\n")
		t.drawn = append(t.drawn, textWidth(line))
	}
	b.WriteString(clearBelow)
	t.above, t.columns = nil, columns
	t.out.write(b.Bytes())
}

// height is how many rows the tree on the screen takes. A terminal that became
// narrower since it was drawn may have wrapped its lines.
func (t *terminal) height(columns int) int {
	if !t.opt.Reflow {
		return len(t.drawn)
	}
	rows := 0
	for _, width := range t.drawn {
		rows += max(1, (width+columns-1)/columns)
	}
	return rows
}

// Close removes the tree, shows what is over, and gives the cursor back.
func (t *terminal) Close() error {
	t.mu.Lock()
	if t.out.closed {
		defer t.mu.Unlock()
		return t.out.err
	}
	t.out.closed = true
	t.draw(false)
	if t.hidden {
		t.out.write([]byte(ShowCursor))
	}
	t.mu.Unlock()
	close(t.stop)
	<-t.done
	return t.out.err
}
