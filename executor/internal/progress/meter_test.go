package progress

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// The contents of a layer name the largest files, and count all.
func TestContents(t *testing.T) {
	var c Contents
	for i := range 30 {
		c.Add(fmt.Sprint("f", i), int64(i*7%30))
	}
	if c.Files != 30 || c.Bytes != 29*30/2 || len(c.Largest) != MaxLargest {
		t.Fatalf("%+v", c)
	}
	for i, f := range c.Largest {
		if f.Size != int64(29-i) {
			t.Errorf("file %d is %+v", i, f)
		}
	}
	c = Contents{}
	c.Add("empty", 0)
	if c.Files != 1 || len(c.Largest) != 0 {
		t.Errorf("an empty file is among the largest: %+v", c)
	}
}

// Phases overlap; each end has the duration since its own beginning, once.
func TestMeter(t *testing.T) {
	now := at(0)
	var got []Event
	m := Meter{ID: "1.2", Now: func() time.Time { return now }, Sink: func(e Event) { got = append(got, e) }}
	pull := m.Begin(PhasePull, "0123")
	now = at(100)
	extract := m.Begin(PhaseExtract, "")
	now = at(250)
	pull(42, nil)
	now = at(300)
	extract(0, errors.New("disk"))
	extract(0, nil)
	m.Bytes(PhasePush, "push layer", 1, 2)
	want := []Event{
		{Time: at(0), Kind: KindPhase, ID: "1.2", Name: "0123", Phase: PhasePull, State: StateStarted},
		{Time: at(100), Kind: KindPhase, ID: "1.2", Phase: PhaseExtract, State: StateStarted},
		{Time: at(250), Kind: KindPhase, ID: "1.2", Name: "0123", Phase: PhasePull, State: StateDone, Current: 42, MS: 250},
		{Time: at(300), Kind: KindPhase, ID: "1.2", Phase: PhaseExtract, State: StateFailed, MS: 200, Error: "disk"},
		{Time: at(300), Kind: KindBytes, ID: "1.2", Name: "push layer", Phase: PhasePush, Current: 1, Total: 2},
	}
	if len(got) != len(want) {
		t.Fatalf("told %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("event %d is %+v, want %+v", i, got[i], want[i])
		}
	}
	Meter{}.Begin(PhasePull, "")(1, nil) // tells nobody
	Meter{}.Bytes(PhasePull, "", 1, 1)
}

// at is a moment, some milliseconds after a fixed one.
func at(ms int) time.Time {
	return time.Date(2026, 11, 23, 10, 0, 0, ms*1e6, time.UTC)
}
