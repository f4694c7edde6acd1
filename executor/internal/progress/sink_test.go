package progress

import "testing"

// A nil sink drops events.
func TestNilSink(t *testing.T) {
	Sink(nil).Send(Event{})
	n := 0
	Sink(func(Event) { n++ }).Send(Event{})
	if n != 1 {
		t.Errorf("sink was called %d times", n)
	}
}
