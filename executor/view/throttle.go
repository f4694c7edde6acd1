package view

import "time"

// byteInterval is how often the progress of one transfer is told.
const byteInterval = time.Second

// throttle thins out byte progress. The first event of a transfer counts as
// told, so that short transfers are not mentioned at all.
type throttle struct {
	last map[string]time.Time // by id and name
	told map[string]bool
}

func newThrottle() *throttle {
	return &throttle{last: map[string]time.Time{}, told: map[string]bool{}}
}

// pass says whether e is to be told: after a second without, and at the end of
// a transfer that was mentioned before.
func (t *throttle) pass(e Event) bool {
	key := e.ID + "\x00" + string(e.Phase) + "\x00" + e.Name
	last, seen := t.last[key]
	if e.Total > 0 && e.Current >= e.Total {
		told := t.told[key]
		delete(t.last, key)
		delete(t.told, key)
		return told
	}
	if !seen {
		t.last[key] = e.Time
		return false
	}
	if e.Time.Sub(last) < byteInterval {
		return false
	}
	t.last[key] = e.Time
	t.told[key] = true
	return true
}
