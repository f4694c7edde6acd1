package build

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/progress"
)

// teller tells about one step.
type teller struct {
	sink  progress.Sink
	now   func() time.Time
	event progress.Event // what all events of the step have in common
	begun time.Time

	cache  progress.Cache // what it did for the step
	reason string         // why that is no hit
	inputs *progress.Inputs
}

// from0 tells about the stage's FROM.
func (s *stage) from0() *teller { return s.teller(0, s.plan.Text, s.plan.Pos) }

// meter tells of the step's phases.
func (t *teller) meter() progress.Meter {
	return progress.Meter{Sink: t.sink, Now: t.now, ID: t.event.ID}
}

// tellLayer tells of a layer of the image, whose digest is known.
func (s *stage) tellLayer(tell *teller, l v1.Layer, contents *progress.Contents) {
	if !s.use.layers {
		return
	}
	digest, err := l.Digest()
	if err != nil {
		return
	}
	size, err := l.Size()
	if err != nil {
		return
	}
	tell.send(progress.Event{Kind: progress.KindLayer, Layer: &progress.Layer{Digest: digest.String(), Size: size, Contents: contents}})
}

// layerName is a short name for a layer; "" while its digest is not known.
func layerName(l v1.Layer) string {
	h, err := l.Digest()
	if err != nil {
		return ""
	}
	return h.Hex[:min(12, len(h.Hex))]
}

// teller tells about the n-th of the stage's operations; 0 is its FROM.
func (s *stage) teller(n int, text string, pos dockerfile.Pos) *teller {
	ops := 0
	for _, t := range s.plan.Steps {
		if t.Op != nil {
			ops++
		}
	}
	return &teller{sink: s.Progress, now: s.Now, event: progress.Event{
		ID:   fmt.Sprintf("%d.%d", s.index+1, n),
		Name: fmt.Sprintf("[%s %d/%d] %s", s.stageName(s.index), n+1, ops+1, oneLine(text)),
		Pos:  pos.String(),
	}}
}

func oneLine(s string) string {
	const most = 120
	b := bytes.Join(bytes.Fields([]byte(s)), []byte(" "))
	if r := bytes.Runes(b); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return string(b)
}

func (t *teller) send(e progress.Event) {
	if t.now == nil {
		return
	}
	e.Time, e.ID = t.now(), t.event.ID
	if e.Kind != progress.KindOutput { // of which there are many, and whose step was named
		e.Name, e.Pos = t.event.Name, t.event.Pos
	}
	t.sink.Send(e)
}

func (t *teller) started(p progress.Phase) {
	t.begun = t.now()
	t.event.Phase = p
	t.send(progress.Event{Kind: progress.KindStep, State: progress.StateStarted, Phase: p})
}

func (t *teller) note(text string) {
	t.send(progress.Event{Kind: progress.KindNote, Text: text})
}

// phase says that a running step does something else now.
func (t *teller) phase(p progress.Phase) {
	t.send(progress.Event{Kind: progress.KindStep, State: progress.StateStarted, Phase: p})
}

func (t *teller) ended(hit bool, err error) {
	e := progress.Event{Kind: progress.KindStep, State: progress.StateDone, Phase: t.event.Phase, MS: t.now().Sub(t.begun).Milliseconds()}
	switch {
	case err != nil:
		e.State, e.Error = progress.StateFailed, err.Error()
	case hit:
		e.State = progress.StateCached
	}
	e.Cache, e.Reason, e.Inputs = t.cache, t.reason, t.inputs
	t.send(e)
}

func phaseOf(op plan.Op) progress.Phase {
	switch op.(type) {
	case plan.Copy:
		return progress.PhaseCopy
	case plan.Add:
		return progress.PhaseAdd
	case plan.Workdir:
		return progress.PhaseWorkdir
	}
	return progress.PhaseRun
}

// maxLine is how much of a line without an end is held back.
const maxLine = 16 << 10

// tailLines is how many of the last lines a failing RUN's error has.
const tailLines = 10

// printer cuts what a process prints into lines and tells them.
type printer struct {
	tell   *teller
	stream int
	tail   *tail
	part   []byte
}

var _ io.Writer = (*printer)(nil)

func (p *printer) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		p.part = append(p.part, line...)
		if b = rest; ended || len(p.part) >= maxLine {
			p.flush()
		}
	}
	return n, nil
}

func (p *printer) flush() {
	text := string(bytes.TrimSuffix(p.part, []byte("\r")))
	p.part = p.part[:0]
	p.tail.mu.Lock()
	defer p.tail.mu.Unlock()
	p.tail.add(p.stream, text)
	p.tell.send(progress.Event{Kind: progress.KindOutput, Stream: p.stream, Text: text})
}

func (p *printer) end() {
	if len(p.part) > 0 {
		p.flush()
	}
}

// tail keeps the last lines of both streams. What came last on standard error is
// kept although standard output went on: which of two pipes is read first is chance,
// and what went wrong is most often said on standard error.
type tail struct {
	mu    sync.Mutex // held while a line is told as well, so that all see one order
	lines []tailLine
}

type tailLine struct {
	stream int
	text   string
}

// add takes a line. The caller holds mu.
func (t *tail) add(stream int, text string) {
	t.lines = append(t.lines, tailLine{stream, text})
	if len(t.lines) <= tailLines {
		return
	}
	diagnostics := 0
	for _, l := range t.lines {
		if l.stream == 2 {
			diagnostics++
		}
	}
	// The oldest line goes, of those that may.
	drop := slices.IndexFunc(t.lines, func(l tailLine) bool {
		return l.stream != 2 || diagnostics > tailLines/2
	})
	t.lines = slices.Delete(t.lines, drop, drop+1)
}

// last is the lines that are left, in the order in which they came.
func (t *tail) last() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, l := range t.lines {
		out = append(out, l.text)
	}
	return out
}
