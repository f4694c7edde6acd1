package progress

import (
	"sync/atomic"
	"time"
)

// Meter tells of the phases of a step: when each begins, when it ends, and how
// many bytes went through it. The zero value tells nothing.
type Meter struct {
	Sink Sink
	Now  func() time.Time
	ID   string // of the step
}

// Bytes tells how far a transfer of the step is.
func (m Meter) Bytes(p Phase, name string, done, total int64) {
	if m.Now != nil {
		m.Sink.Send(Event{Time: m.Now(), Kind: KindBytes, ID: m.ID, Name: name, Phase: p, Current: done, Total: total})
	}
}

// Begin says that a phase has begun and returns what says that it has ended.
// name is that of the blob that it is about, or empty. Phases may overlap, also
// of the same kind: the event of an end has MS, so that its beginning is known.
// Only the first call of end counts.
func (m Meter) Begin(p Phase, name string) (end func(bytes int64, err error)) {
	if m.Now == nil {
		return func(int64, error) {}
	}
	begun := m.Now()
	e := Event{Time: begun, Kind: KindPhase, ID: m.ID, Name: name, Phase: p, State: StateStarted}
	m.Sink.Send(e)
	var ended atomic.Bool
	return func(bytes int64, err error) {
		if ended.Swap(true) {
			return
		}
		e.Time, e.State, e.Current = m.Now(), StateDone, bytes
		e.MS = e.Time.Sub(begun).Milliseconds()
		if err != nil {
			e.State, e.Error = StateFailed, err.Error()
		}
		m.Sink.Send(e)
	}
}
