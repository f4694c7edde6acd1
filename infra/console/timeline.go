package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// stepView is a step as the page shows it: a row of the timeline, and a part of the
// log that can be folded.
type stepView struct {
	step
	Bars   []bar
	Said   string // the bars in words
	Took   string
	Status string // done, cached, failed, started
	Why    string // what the cache did, in words
	Moved  string // what differs from the build before, if the cache had nothing
	Open   bool   // unfolded
	Text   []line // the last of its log
	Left   int    // lines before those
	Amount string // bytes of what goes on
}

// bar is a phase in the timeline. X and W are parts of the whole in percent.
type bar struct {
	Kind, Title  string
	X, W         string
	Y, H         int // pixels
	Open, Failed bool
}

// tick is a mark on the axis.
type tick struct {
	X, Text string
	End     bool // text ends at the mark instead of beginning there
}

// phaseWord is what people call a phase.
func phaseWord(kind string) string {
	if kind == "layer" {
		return "compress"
	}
	return kind
}

// legend lists the kinds of bars, and what they mean.
func legend() []option {
	return []option{
		{"load", "load context, Dockerfile, names of files"}, {"pull", "pull a layer"}, {"extract", "extract"}, {"copy", "copy, add, workdir"},
		{"run", "run"}, {"snapshot", "snapshot"}, {"layer", "compress"}, {"push", "push, export"},
	}
}

// lane is where bars of a kind are drawn in a row of 24 pixels: what may go on beside others has lanes of
// its own.
func lane(kind string) (class string, y, h int) {
	switch kind {
	case "pull":
		return kind, 1, 4
	case "layer":
		return kind, 16, 3
	case "push", "export":
		return "push", 20, 3
	case "add", "workdir":
		return "copy", 6, 9
	case "load", "extract", "copy", "run", "snapshot":
		return kind, 6, 9
	}
	return "load", 6, 9
}

// timeline lays out the steps of a build over the time that it took so far.
func (c *Console) timeline(b build, steps []step, before *story) ([]stepView, []tick) {
	begin, end := c.span(b, steps)
	total := end.Sub(begin)
	part := func(d time.Duration) string {
		if total <= 0 {
			return "0"
		}
		return fmt.Sprintf("%.3f", min(max(float64(d)/float64(total), 0), 1)*100)
	}
	earlier := inputsOf(before)
	out := make([]stepView, 0, len(steps))
	for _, s := range steps {
		v := stepView{step: s, Status: s.State, Open: s.State == events.StepFailed || s.State == events.StepStarted}
		if s.MS > 0 || !s.Ended.IsZero() {
			v.Took = buildlog.Duration(s.MS)
		}
		v.Name = cmp.Or(s.Name, "step "+s.ID)
		for _, p := range s.Phases {
			to := p.End
			if p.open() {
				to = end
			}
			class, y, h := lane(p.Kind)
			v.Bars = append(v.Bars, bar{
				Kind: class, Title: phaseTitle(p, to), X: part(p.Begin.Sub(begin)), W: part(max(to.Sub(p.Begin), total/400)), Y: y, H: h, Open: p.open(), Failed: p.Failed,
			})
		}
		v.Said = said(s.Phases, end)
		v.Why = cacheWords(s)
		if s.Cache == events.CacheMiss {
			v.Moved = moved(s, earlier)
		}
		if s.State == events.StepStarted && s.Current > 0 {
			v.Amount = buildlog.Bytes(s.Current)
			if s.Total > 0 {
				v.Amount += " of " + buildlog.Bytes(s.Total)
			}
		}
		out = append(out, v)
	}
	return out, axis(total)
}

// span is from when to when the build is drawn.
func (c *Console) span(b build, steps []step) (begin, end time.Time) {
	for _, s := range steps {
		for _, p := range s.Phases {
			if begin.IsZero() || p.Begin.Before(begin) {
				begin = p.Begin
			}
			if last := cmp.Or(p.End, p.Begin); last.After(end) {
				end = last
			}
		}
		if s.Ended.After(end) {
			end = s.Ended
		}
	}
	if b.Result == nil && !begin.IsZero() {
		end = c.cfg.Now()
	}
	return begin, end
}

func phaseTitle(p phase, to time.Time) string {
	text := phaseWord(p.Kind)
	if p.Name != "" {
		text += " " + p.Name
	}
	text += ", " + buildlog.Duration(to.Sub(p.Begin).Milliseconds())
	if p.Bytes > 0 {
		text += ", " + buildlog.Bytes(p.Bytes)
	}
	if p.Failed {
		text += ", failed"
	} else if p.open() {
		text += " so far"
	}
	return text
}

// said is what the bars of a step say, for those who cannot see them.
func said(phases []phase, end time.Time) string {
	var order []string
	sum := map[string]time.Duration{}
	for _, p := range phases {
		if _, ok := sum[p.Kind]; !ok {
			order = append(order, p.Kind)
		}
		sum[p.Kind] += cmp.Or(p.End, end).Sub(p.Begin)
	}
	words := make([]string, 0, len(order))
	for _, k := range order {
		words = append(words, phaseWord(k)+" "+buildlog.Duration(sum[k].Milliseconds()))
	}
	return strings.Join(words, ", ")
}

// cacheWords says what the cache did for a step.
func cacheWords(s step) string {
	switch {
	case s.Cache == events.CacheHit, s.State == events.StepCached:
		return "hit"
	case s.Cache == events.CacheMiss:
		return "miss: " + cmp.Or(s.Reason, "no entry")
	case s.Cache == events.CacheOff:
		return "not asked: " + cmp.Or(s.Reason, "no reason was given")
	}
	return ""
}

// inputsOf are the inputs of the steps of a build, by their place in it.
func inputsOf(s *story) map[string]events.ProgressInputs {
	out := map[string]events.ProgressInputs{}
	if s == nil {
		return out
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.steps {
		if st.Inputs != nil {
			out[st.ID] = *st.Inputs
		}
	}
	return out
}

// moved says which inputs of a step are not as they were in the build before.
func moved(s step, earlier map[string]events.ProgressInputs) string {
	was, ok := earlier[s.ID]
	if !ok || s.Inputs == nil {
		return ""
	}
	var what []string
	if was.Instruction != s.Inputs.Instruction {
		what = append(what, "the instruction")
	}
	if was.Content != s.Inputs.Content {
		what = append(what, "the files it reads")
	}
	if was.Before != s.Inputs.Before {
		what = append(what, "what it stands on")
	}
	if len(what) == 0 {
		return "nothing it depends on differs from the build before"
	}
	return "changed: " + strings.Join(what, ", ")
}

// axis marks the time at round values.
func axis(total time.Duration) []tick {
	if total <= 0 {
		return nil
	}
	every := 10 * time.Millisecond
	for _, next := range []time.Duration{20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000} {
		if total/every <= 6 {
			break
		}
		every = next * time.Millisecond
	}
	var out []tick
	for at := time.Duration(0); at <= total && len(out) < 50; at += every {
		part := float64(at) / float64(total) * 100
		text := "0"
		if at > 0 {
			text = buildlog.Duration(at.Milliseconds())
		}
		out = append(out, tick{X: fmt.Sprintf("%.3f", part), Text: text, End: part > 92})
	}
	return out
}

// phaseRow is a row of the table that says what the timeline draws.
type phaseRow struct {
	Number                     int
	Step, Phase, Layer         string
	Began, Took, Bytes, Failed string
}

func phaseRows(steps []stepView) []phaseRow {
	var first time.Time
	for _, s := range steps {
		for _, p := range s.Phases {
			if first.IsZero() || p.Begin.Before(first) {
				first = p.Begin
			}
		}
	}
	type timed struct {
		phaseRow
		at time.Time
	}
	var rows []timed
	for _, s := range steps {
		for _, p := range s.Phases {
			r := phaseRow{Number: s.Number, Step: s.Name, Phase: phaseWord(p.Kind), Layer: p.Name, Began: buildlog.Duration(p.Begin.Sub(first).Milliseconds()), Took: "goes on"}
			if !p.open() {
				r.Took = buildlog.Duration(p.End.Sub(p.Begin).Milliseconds())
			}
			if p.Bytes > 0 {
				r.Bytes = buildlog.Bytes(p.Bytes)
			}
			if p.Failed {
				r.Failed = "failed"
			}
			rows = append(rows, timed{r, p.Begin})
		}
	}
	slices.SortStableFunc(rows, func(a, b timed) int { return a.at.Compare(b.at) })
	out := make([]phaseRow, 0, len(rows))
	for _, r := range rows {
		out = append(out, r.phaseRow)
	}
	return out
}

func trimKiln(location string) string { return strings.TrimPrefix(location, "kiln://") }
