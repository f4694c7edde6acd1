package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kilnhook/kiln/executor/internal/progress"
)

// plainColumns is how wide the table is where there is no terminal.
const plainColumns = 100

// account sums up a build for the table at its end.
type account struct {
	began  time.Time
	last   time.Time
	rows   []*row // of steps of stages, in order of their first event
	byID   map[string]*row
	phases map[progress.Phase]time.Duration
}

// row is a step.
type row struct {
	id, name string
	took     time.Duration
	over     bool
	cache    progress.Cache
	reason   string
	layers   []progress.Layer
}

func newAccount() *account {
	return &account{byID: map[string]*row{}, phases: map[progress.Phase]time.Duration{}}
}

func (a *account) add(e Event) {
	if a.began.IsZero() {
		a.began = e.Time
	}
	if e.Time.After(a.last) {
		a.last = e.Time
	}
	took := time.Duration(e.MS) * time.Millisecond
	switch e.Kind {
	case progress.KindStep:
		if !stepName.MatchString(e.Name) && a.byID[e.ID] == nil {
			a.phases[e.Phase] += took // it is a phase of the build itself
			return
		}
		a.step(e, took)
	case progress.KindPhase:
		a.phases[e.Phase] += took
	case progress.KindLayer:
		if e.Layer != nil {
			r := a.row(e.ID, e.Name)
			r.layers = append(r.layers, *e.Layer)
		}
	}
}

func (a *account) row(id, name string) *row {
	r := a.byID[id]
	if r == nil {
		r = &row{id: id}
		a.byID[id] = r
		a.rows = append(a.rows, r)
	}
	if name != "" {
		r.name = Clean(name)
	}
	return r
}

func (a *account) step(e Event, took time.Duration) {
	r := a.row(e.ID, e.Name)
	if e.State == progress.StateStarted {
		if r.over { // another attempt of the build begins it anew
			*r = row{id: r.id, name: r.name}
		}
		return
	}
	r.over, r.took, r.cache, r.reason = true, took, e.Cache, Clean(e.Reason)
	if e.State == progress.StateCached {
		r.cache = progress.CacheHit
	}
}

// namedPhase is a phase, and what it is called.
type namedPhase struct {
	phase progress.Phase
	name  string
}

// phaseOrder is the order in which phases are told.
func phaseOrder() []namedPhase {
	return []namedPhase{
		{progress.PhaseLoad, "load"}, {progress.PhasePull, "pull"}, {progress.PhaseExtract, "extract"}, {progress.PhaseCopy, "copy"},
		{progress.PhaseAdd, "add"}, {progress.PhaseRun, "run"}, {progress.PhaseWorkdir, "workdir"}, {progress.PhaseSnapshot, "snapshot"},
		{progress.PhaseLayer, "compress"}, {progress.PhasePush, "push"}, {progress.PhaseExport, "export"},
	}
}

// table is what the build made: its layers, what the cache did, and how long
// each phase took, phases that ran at the same time in full.
func (a *account) table(columns int, s style) []string {
	var out []string
	steps, hits, layers := 0, 0, 0
	var size int64
	var made []*row
	for _, r := range a.rows {
		if r.over {
			steps++
		}
		if r.cache == progress.CacheHit {
			hits++
		}
		for _, l := range r.layers {
			layers++
			size += l.Size
		}
		if len(r.layers) > 0 {
			made = append(made, r)
		}
	}
	slices.SortStableFunc(made, func(x, y *row) int { return compareIDs(x.id, y.id) })
	if len(made) > 0 {
		out = append(out, s.bold(columnsOf("layer", "size", "files", "took", "cache", columns)))
	}
	for _, r := range made {
		out = append(out, r.line(columns))
	}
	var sums []string
	if steps > 0 {
		sums = append(sums, Count(steps, "step")+fmt.Sprintf(", %d from the cache", hits))
	}
	if layers > 0 {
		sums = append(sums, Count(layers, "layer")+", "+Bytes(size))
	}
	if len(a.rows) == 0 {
		return nil // nothing was built
	}
	sums = append(sums, seconds(a.last.Sub(a.began)))
	out = append(out, fit(strings.Join(sums, " · "), columns))
	var times []string
	for _, p := range phaseOrder() {
		if d := a.phases[p.phase]; d >= 50*time.Millisecond {
			times = append(times, p.name+" "+seconds(d))
		}
	}
	if len(times) > 0 {
		out = append(out, fit(strings.Join(times, " · "), columns))
	}
	return out
}

// line is the row of a step that has layers.
func (r *row) line(columns int) string {
	var size int64
	files, known := 0, true
	for _, l := range r.layers {
		size += l.Size
		if l.Contents == nil {
			known = false
			continue
		}
		files += l.Contents.Files
	}
	name, count, took, cache := r.name, "", "", ""
	if strings.HasSuffix(r.id, ".0") { // its FROM
		cache = "base"
	}
	if n := len(r.layers); n > 1 {
		name += fmt.Sprintf(" (%d layers)", n)
	}
	if known {
		count = fmt.Sprint(files)
	}
	if r.cache != "" {
		cache = string(r.cache)
		if r.reason != "" {
			cache += ": " + r.reason
		}
		if r.cache != progress.CacheHit {
			took = seconds(r.took)
		}
	}
	return columnsOf(name, Bytes(size), count, took, cache, columns)
}

// columnsOf lays out a line of the table. A narrow one has no count of files,
// and one that is narrower still only sizes.
func columnsOf(name, size, files, took, cache string, columns int) string {
	right := fmt.Sprintf("%9s", size)
	if columns >= 100 {
		right += fmt.Sprintf("%8s", files)
	}
	if columns >= 60 {
		right += fmt.Sprintf("%9s  ", took)
		right += pad(fit(cache, columns/4), columns/4)
	}
	return strings.TrimRight(join(name, right, columns), " ")
}

// Count is a number of things, as "1 step" and "2 steps".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func pad(s string, columns int) string {
	return s + strings.Repeat(" ", max(columns-textWidth(s), 0))
}

// compareIDs orders 2.3 before 2.10.
func compareIDs(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		if c := cmp.Or(cmp.Compare(len(x[i]), len(y[i])), cmp.Compare(x[i], y[i])); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}
