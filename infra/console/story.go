package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// story is what a build's log tells: its steps with their phases, its layers, and
// where each line of text is. The text itself stays in the log. It reads on where
// it stopped.
type story struct {
	mu     sync.Mutex
	offset int64 // of the log, read so far
	steps  []*step
	byID   map[string]*step
	layers []layerRecord
	lines  int
}

// step is a step of a build. That with the number 0 is the build itself.
type step struct {
	Number         int
	ID, Name, Pos  string
	State          string // one of events.Step…, empty if only phases are known
	Phase          string // at the moment
	Cache, Reason  string
	Error          string
	Inputs         *events.ProgressInputs
	Started, Ended time.Time
	MS             int64
	Current, Total int64 // bytes of what goes on
	Phases         []phase
	Lines          []place

	told     bool    // Phases are told, not derived
	implicit []phase // derived from changes of the step's phase
}

// phase is a stretch of work.
type phase struct {
	Kind       string // "pull", "run", …
	Name       string // of a layer
	Begin, End time.Time
	Bytes      int64
	Failed     bool
}

// open says that it has not ended.
func (p phase) open() bool { return p.End.IsZero() }

// place is where a line of text is: in the log from an offset on, the n-th of the
// lines that the record there has.
type place struct {
	offset int64
	n      int32
	stderr bool
}

// layerRecord is a layer that the log tells of.
type layerRecord struct {
	events.ProgressBlob
	StepID string
}

func newStory() *story {
	s := &story{byID: map[string]*step{}}
	s.steps = []*step{{Name: "Build"}}
	return s
}

// read takes in what the log has besides what was read.
func (s *story) read(ctx context.Context, logs Logs, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if logs == nil {
		return nil
	}
	at := s.offset
	end, err := logs.Log(ctx, id, at, false, func(lines []byte) error {
		for line := range strings.Lines(string(lines)) {
			s.add(at, strings.TrimSuffix(line, "\n"))
			at += int64(len(line))
		}
		s.offset = at
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was said yet, or nothing is kept
	}
	if err != nil {
		return fmt.Errorf("read log of build %s: %w", id, err)
	}
	s.offset = end
	return nil
}

// add takes in one line of the log.
func (s *story) add(at int64, line string) {
	p := buildlog.Parse([]byte(line))
	if p.Kind == events.ProgressNote && strings.TrimSpace(line) == "" {
		return
	}
	switch p.Kind {
	case events.ProgressStep:
		s.step(p)
	case events.ProgressPhase:
		s.phase(p)
	case events.ProgressBytes:
		if st := s.byID[p.ID]; st != nil {
			st.Current, st.Total = p.Current, p.Total
		}
	case events.ProgressLayer:
		if p.Layer != nil {
			st := s.get(p.ID)
			st.Name = cmp.Or(st.Name, p.Name)
			st.Pos = cmp.Or(st.Pos, p.Pos)
			s.layers = append(s.layers, layerRecord{*p.Layer, p.ID})
		}
	case events.ProgressOutput:
		st := s.get(p.ID)
		st.Lines = append(st.Lines, place{offset: at, stderr: p.Stream == 2})
		s.lines++
	default:
		st := s.steps[0]
		if p.ID != "" && s.byID[p.ID] != nil {
			st = s.byID[p.ID]
		}
		for n := range textOf(p) {
			st.Lines = append(st.Lines, place{offset: at, n: int32(n), stderr: p.Error != ""})
			s.lines++
		}
	}
}

// textOf are the lines of text of a record.
func textOf(p events.Progress) []string {
	switch {
	case p.Kind == events.ProgressOutput:
		return []string{p.Text}
	case p.Error != "":
		return strings.Split(strings.TrimRight(p.Error, "\n"), "\n")
	}
	return strings.Split(strings.TrimRight(p.Text, "\n"), "\n")
}

// get finds a step, or makes it known.
func (s *story) get(id string) *step {
	if id == "" {
		return s.steps[0]
	}
	if st := s.byID[id]; st != nil {
		return st
	}
	st := &step{Number: len(s.steps), ID: id}
	s.byID[id] = st
	s.steps = append(s.steps, st)
	return st
}

func (s *story) step(p events.Progress) {
	if old := s.byID[p.ID]; old != nil && p.State == events.StepStarted && old.State != "" && old.State != events.StepStarted {
		delete(s.byID, p.ID) // another attempt of the build begins it anew
	}
	st := s.get(p.ID)
	if st.Number == 0 {
		return // a step has an id
	}
	st.Name, st.Pos = cmp.Or(p.Name, st.Name), cmp.Or(p.Pos, st.Pos)
	if p.State == events.StepStarted {
		if st.Started.IsZero() {
			st.Started = p.Time
		}
		st.change(p.Phase, p.Time)
		st.State, st.Phase = p.State, p.Phase
		return
	}
	st.change("", p.Time)
	st.State, st.Ended, st.MS, st.Error = p.State, p.Time, p.MS, p.Error
	st.Cache, st.Reason, st.Inputs = p.Cache, p.Reason, p.Inputs
	if st.Started.IsZero() {
		st.Started = p.Time.Add(-time.Duration(p.MS) * time.Millisecond)
	}
	if st.MS == 0 {
		st.MS = st.Ended.Sub(st.Started).Milliseconds()
	}
	st.Current, st.Total = 0, 0
}

// change notes that a step goes on to another phase; "" is its end.
func (st *step) change(kind string, at time.Time) {
	if n := len(st.implicit); n > 0 && st.implicit[n-1].open() {
		if st.implicit[n-1].Kind == kind {
			return
		}
		st.implicit[n-1].End = at
	}
	if kind != "" {
		st.implicit = append(st.implicit, phase{Kind: kind, Begin: at})
	}
}

// maxPhases is how many phases of one step are kept.
const maxPhases = 500

func (s *story) phase(p events.Progress) {
	st := s.get(p.ID)
	st.told = true
	if p.State == events.StepStarted {
		if len(st.Phases) < maxPhases {
			st.Phases = append(st.Phases, phase{Kind: p.Phase, Name: p.Name, Begin: p.Time})
		}
		return
	}
	begun := p.Time.Add(-time.Duration(p.MS) * time.Millisecond)
	at := -1
	for i, ph := range st.Phases {
		if !ph.open() || ph.Kind != p.Phase || ph.Name != p.Name {
			continue
		}
		// Of several that are open, that which began when this one did.
		if at < 0 || ph.Begin.Sub(begun).Abs() < st.Phases[at].Begin.Sub(begun).Abs() {
			at = i
		}
	}
	if at >= 0 {
		st.Phases[at].End, st.Phases[at].Bytes, st.Phases[at].Failed = p.Time, p.Current, p.State == events.StepFailed
	}
}

// snapshot is a copy of what is known, for a page. Phases of steps that tell none
// are those that they changed to.
func (s *story) snapshot() (steps []step, layers []layerRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.steps {
		c := *st
		c.Phases = slices.Clone(st.Phases)
		if !st.told {
			c.Phases = slices.Clone(st.implicit)
		}
		slices.SortStableFunc(c.Phases, func(a, b phase) int { return a.Begin.Compare(b.Begin) })
		c.Lines = slices.Clip(st.Lines)
		steps = append(steps, c)
	}
	return steps, slices.Clone(s.layers)
}

// line is a line of a log as a page shows it.
type line struct {
	N      int             `json:"n"` // of the step's, from 1
	Spans  []buildlog.Span `json:"s"`
	Stderr bool            `json:"e,omitempty"`
	At     string          `json:"at,omitempty"` // since the step began
}

// errEnough ends the reading of a log.
var errEnough = errors.New("enough of the log")

// text reads lines of a step, from the n-th on, at most limit.
func (s *story) text(ctx context.Context, logs Logs, id string, st step, from, limit int) ([]line, error) {
	from = min(max(from, 0), len(st.Lines))
	places := st.Lines[from:min(from+max(limit, 0), len(st.Lines))]
	out := make([]line, 0, len(places))
	if len(places) == 0 || logs == nil {
		return out, nil
	}
	at := places[0].offset
	_, err := logs.Log(ctx, id, at, false, func(lines []byte) error {
		for raw := range strings.Lines(string(lines)) {
			here := at
			at += int64(len(raw))
			if here != places[len(out)].offset {
				continue
			}
			p := buildlog.Parse([]byte(raw))
			text := textOf(p)
			for len(out) < len(places) && places[len(out)].offset == here {
				w := places[len(out)]
				l := line{N: from + len(out) + 1, Stderr: w.stderr}
				if int(w.n) < len(text) {
					l.Spans = buildlog.Spans(text[w.n])
				}
				if !st.Started.IsZero() && p.Time.After(st.Started) {
					l.At = fmt.Sprintf("%.1f", p.Time.Sub(st.Started).Seconds())
				}
				out = append(out, l)
			}
			if len(out) == len(places) {
				return errEnough
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("read log of build %s: %w", id, err)
	}
	return out, nil
}

// stories keeps the stories of the builds that were looked at last.
type stories struct {
	mu    sync.Mutex
	byID  map[string]*story
	order []string // that used last at the end
}

// maxStories and maxStoryLines bound what is kept.
const (
	maxStories    = 32
	maxStoryLines = 4 << 20
)

// get returns the story of a build, as far as the log goes now.
func (c *stories) get(ctx context.Context, logs Logs, id string) (*story, error) {
	c.mu.Lock()
	s := c.byID[id]
	if s == nil {
		s = newStory()
		c.byID[id] = s
	}
	c.order = append(slices.DeleteFunc(c.order, func(o string) bool { return o == id }), id)
	lines := 0
	for i := len(c.order) - 1; i >= 0; i-- {
		other := c.byID[c.order[i]]
		if other != s && other.mu.TryLock() {
			lines += other.lines
			other.mu.Unlock()
		}
		if len(c.order)-i > maxStories || lines > maxStoryLines {
			for _, old := range c.order[:i+1] {
				delete(c.byID, old)
			}
			c.order = slices.Clone(c.order[i+1:])
			break
		}
	}
	c.mu.Unlock()
	return s, s.read(ctx, logs, id)
}

// indented makes JSON readable; what is none stays as it is.
func indented(v any) string {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}
