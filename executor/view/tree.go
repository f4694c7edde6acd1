package view

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/executor/internal/progress"
)

// The tree is kept small, so that what scrolls above it can be read.
const (
	maxTree    = 18 // lines of the tree
	maxOutput  = 6  // lines of output shown under a running step
	keptOutput = 40 // lines of output kept for the case of failure
)

// tree is what goes on at the moment: the stages that are being built, and in
// each the steps that run.
type tree struct {
	style  style
	began  time.Time
	steps  map[string]*node
	stages []*branch // in order of their first step
	cached int       // steps
}

// branch is a stage, or what belongs to none.
type branch struct {
	id     string // of its first step
	name   string
	total  int // steps that it has; 0: it is no stage
	over   int
	active []*node // in order of their start
}

// node is a step, or a transfer that belongs to none.
type node struct {
	branch         *branch
	number         int    // in its stage
	name, text     string // whole, and without the stage
	started        time.Time
	phase          string // what it does, if that is not what it says
	current, total int64
	lines          []string // the last of its output
	running, over  bool
}

func newTree(s style, now time.Time) *tree {
	return &tree{style: s, began: now, steps: map[string]*node{}}
}

// stepName is the form of the names of steps: [stage n/of] text, or [n/of] text.
var stepName = regexp.MustCompile(`^\[(?:(.+) )?(\d+)/(\d+)\] (.*)$`)

// add takes what happened at now, and returns what is over with it: lines to be
// kept, for a terminal of so many columns.
func (t *tree) add(e Event, now time.Time, columns int) []string {
	// A build that is joined late began before it was.
	if !e.Time.IsZero() && e.Time.Before(now) {
		now = e.Time
	}
	if now.Before(t.began) {
		t.began = now
	}
	switch e.Kind {
	case progress.KindStep:
		return t.step(e, now, columns)
	case progress.KindOutput:
		n := t.lookUp(e.ID, e.Name, now)
		if n.lines = append(n.lines, t.style.foreign(e.Text)); len(n.lines) > keptOutput {
			n.lines = append(n.lines[:0], n.lines[1:]...)
		}
	case progress.KindBytes:
		t.transfer(e, now)
	case progress.KindPhase:
		t.phase(e)
	case progress.KindNote:
		var out []string
		prefix := ""
		if e.Pos != "" {
			prefix = Clean(e.Pos) + ": "
		}
		for line := range strings.Lines(e.Text) {
			label, text, _ := strings.Cut(labelled(Clean(line)), ": ")
			out = append(out, fit(t.style.yellow(label+": ")+prefix+text, columns))
		}
		return out
	}
	return nil
}

// lookUp finds a step, or makes it known.
func (t *tree) lookUp(id, name string, now time.Time) *node {
	n := t.steps[id]
	if n == nil {
		n = &node{started: now}
		t.steps[id] = n
	}
	if name == "" || n.branch != nil {
		return n
	}
	n.name = Clean(name)
	n.text = n.name
	stage, total := "", 0
	if m := stepName.FindStringSubmatch(n.name); m != nil {
		n.number, _ = strconv.Atoi(m[2]) // digits; one that is too large is no number of a step
		total, _ = strconv.Atoi(m[3])
		stage, n.text = m[1], m[4]
	}
	n.branch = t.stage(id, stage, total)
	return n
}

// stage finds a stage by its name. Two of the same name and length are one.
func (t *tree) stage(id, name string, total int) *branch {
	for _, b := range t.stages {
		if b.name == name && b.total == total {
			return b
		}
	}
	b := &branch{id: id, name: name, total: total}
	t.stages = append(t.stages, b)
	return b
}

func (t *tree) step(e Event, now time.Time, columns int) []string {
	n := t.lookUp(e.ID, orElse(e.Name, e.ID), now)
	if e.State == progress.StateStarted {
		if n.over { // another attempt of the build begins it anew
			n.branch.over--
		}
		if !n.running {
			n.running, n.over, n.started = true, false, now
			n.branch.active = append(n.branch.active, n)
		}
		n.phase, n.current, n.total = n.beyond(e.Phase), 0, 0
		return nil
	}
	if n.over {
		return nil
	}
	t.end(n)
	took := now.Sub(n.started)
	if e.MS > 0 {
		took = time.Duration(e.MS) * time.Millisecond
	}
	defer func() { n.lines = nil }()
	switch e.State {
	case progress.StateCached:
		t.cached++
		return []string{join(t.style.green("✓ ")+n.name, t.style.blue("cached"), columns)}
	case progress.StateFailed:
		return t.failed(n, e, took, columns)
	}
	return []string{join(t.style.green("✓ ")+n.name, t.style.dim(seconds(took)), columns)}
}

func (t *tree) end(n *node) {
	n.branch.over++
	n.over, n.running = true, false
	kept := n.branch.active[:0]
	for _, other := range n.branch.active {
		if other != n {
			kept = append(kept, other)
		}
	}
	n.branch.active = kept
}

func (t *tree) failed(n *node, e Event, took time.Duration, columns int) []string {
	out := []string{join(t.style.red("✗ ")+n.name, t.style.dim(seconds(took)), columns)}
	if e.Error == progress.Stopped {
		n.lines = nil // nobody looks for a mistake in it
	}
	for _, line := range n.lines {
		out = append(out, fit("    "+line, columns))
	}
	for line := range strings.Lines(e.Error) {
		out = append(out, fit("  "+t.style.red(Clean(line)), columns))
	}
	return out
}

// transfer shows how far something is: with its step, or, if that is over or
// there is none, as a line of its own until all of it is there.
func (t *tree) transfer(e Event, now time.Time) {
	n := t.steps[e.ID]
	if e.ID == "" || n == nil || n.branch == nil {
		n = nil
	}
	if n != nil && n.running {
		n.current, n.total, n.phase = e.Current, e.Total, n.beyond(e.Phase)
		return
	}
	what := transfer(e, "")
	if n != nil && n.branch.total > 0 {
		what += " (" + n.branch.place(n.number) + ")"
	}
	key := func(total int64) string { return fmt.Sprintf("\x00%s\x00%s\x00%s\x00%d", e.ID, e.Phase, e.Name, total) }
	if e.Total > 0 && e.Current >= e.Total {
		t.forget(key(e.Total))
		t.forget(key(0)) // its size was not known before
		return
	}
	n = t.lookUp(key(e.Total), what, now)
	n.current, n.total = e.Current, e.Total
	if !n.running {
		n.running = true
		n.branch.active = append(n.branch.active, n)
	}
}

// forget removes a transfer.
func (t *tree) forget(key string) {
	if n := t.steps[key]; n != nil {
		t.end(n)
		delete(t.steps, key)
	}
}

// phase ends what a step that is over had going on.
func (t *tree) phase(e Event) {
	if e.State == progress.StateStarted {
		return
	}
	prefix := fmt.Sprintf("\x00%s\x00%s\x00", e.ID, e.Phase)
	for key := range t.steps {
		if strings.HasPrefix(key, prefix) {
			t.forget(key)
		}
	}
}

// place is a stage's name, and how far in it something is.
func (b *branch) place(number int) string {
	return strings.TrimSpace(fmt.Sprintf("%s %d/%d", b.name, number, b.total))
}

// beyond is the name of a phase, unless it is what the step says anyway.
func (n *node) beyond(p progress.Phase) string {
	if n.branch.total == 0 || strings.HasPrefix(strings.ToLower(n.text), string(p)) {
		return ""
	}
	return string(p)
}

// draw returns the lines of the tree at now, none wider than columns and no more
// than rows; none if nothing goes on.
func (t *tree) draw(now time.Time, columns, rows int) []string {
	rows = min(rows, maxTree)
	var shown []*branch
	over, total, running := 0, 0, 0
	for _, b := range t.stages {
		if b.total > 0 {
			over += b.over
			total += b.total
		}
		running += len(b.active)
		if len(b.active) > 0 {
			shown = append(shown, b)
		}
	}
	if running == 0 || rows < 2 {
		return nil
	}
	slices.SortStableFunc(shown, func(a, b *branch) int {
		if a.total == 0 || b.total == 0 {
			return a.total - b.total // what belongs to no stage comes first
		}
		return compareIDs(a.id, b.id)
	})
	head := t.style.bold("Building " + seconds(now.Sub(t.began)))
	if total > 0 {
		head += fmt.Sprintf("  %d/%d steps", over, total)
	}
	if t.cached > 0 {
		head += fmt.Sprintf("  %d cached", t.cached)
	}
	out := []string{fit(head, columns)}
	for output := maxOutput; ; output-- {
		body := t.body(shown, now, columns, output)
		if 1+len(body) <= rows {
			return append(out, body...)
		}
		if output == 0 {
			body = body[:rows-2]
			return append(append(out, body...), fit(t.style.dim("└─ and more"), columns))
		}
	}
}

// body draws branches, with so many lines of output under each step.
func (t *tree) body(shown []*branch, now time.Time, columns, output int) []string {
	var out []string
	for i, b := range shown {
		mark, rail := "├─ ", "│  "
		if i == len(shown)-1 {
			mark, rail = "└─ ", "   "
		}
		label := ""
		if b.total > 0 {
			label = t.style.blue(b.place(b.over))
		}
		if label != "" && len(b.active) == 1 {
			n := b.active[0]
			label = t.style.blue(b.place(n.number)) + "  "
			out = t.entry(out, n, mark+label, rail, now, columns, output)
			continue
		}
		if label != "" {
			out = append(out, fit(mark+label, columns))
		}
		for k, n := range b.active {
			last := k == len(b.active)-1
			switch {
			case label != "" && last:
				out = t.entry(out, n, rail+"└─ ", rail+"   ", now, columns, output)
			case label != "":
				out = t.entry(out, n, rail+"├─ ", rail+"│  ", now, columns, output)
			case last && i == len(shown)-1:
				out = t.entry(out, n, "└─ ", "   ", now, columns, output)
			default:
				out = t.entry(out, n, "├─ ", "│  ", now, columns, output)
			}
		}
	}
	return out
}

// entry draws a step that runs, and the last lines of its output.
func (t *tree) entry(out []string, n *node, mark, rail string, now time.Time, columns, output int) []string {
	right := seconds(now.Sub(n.started))
	if n.current > 0 {
		right = amount(n.current, n.total) + "  " + right
	}
	if n.phase != "" {
		right = n.phase + " " + right
	}
	out = append(out, join(mark+n.text, t.style.dim(right), columns))
	for _, line := range n.lines[max(len(n.lines)-output, 0):] {
		out = append(out, fit(rail+"  │ "+line, columns))
	}
	return out
}
