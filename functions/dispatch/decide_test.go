package dispatch

import (
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/record"
)

// id is an object id made of one digit.
func id(c string) string { return strings.Repeat(c, 40) }

const none = "0"

// ref is a move of refs/heads/main, at second sec of the test's time; 0 is no time.
func ref(before, after string, sec int) events.Change {
	c := events.Change{Kind: events.KindGit, Location: "h/r", Name: "refs/heads/main", Before: id(before), After: id(after)}
	if sec > 0 {
		c.Time = at(sec)
	}
	return c
}

func object(generation string, sec int) events.Change {
	c := events.Change{Kind: events.KindObject, Location: "gs://b", Name: "k", Generation: generation, Size: 1}
	if sec > 0 {
		c.Time = at(sec)
	}
	return c
}

// matchOf is a match of a trigger.
func matchOf(name string, c events.Change) trigger.Match {
	return trigger.Match{Trigger: trigger.Trigger{Name: name}, Request: events.Request{Trigger: name, Change: c}}
}

func at(sec int) time.Time { return time.Unix(1795400000+int64(sec), 0).UTC() }

// The table of the register, row by row.
func TestDecide(t *testing.T) {
	now := at(1000)
	standing := func(head string, sec int) *record.Register {
		r := &record.Register{Location: "h/r", Name: "refs/heads/main", Sequence: 7, BuildID: "seven"}
		if head != "" {
			r.Head = id(head)
		}
		if sec > 0 {
			r.ChangeTime = at(sec)
		}
		return r
	}
	objects := func(generation, order string, sec int) *record.Register {
		return &record.Register{Location: "gs://b", Name: "k", Head: generation, Order: order, Sequence: 3, BuildID: "three", ChangeTime: at(sec)}
	}
	says := func(head string) Remote { return Remote{Asked: true, Known: true, Head: head} }
	silent := Remote{Asked: true}
	withOrder := func(c events.Change, order string) events.Change { c.Order = order; return c }

	for name, tc := range map[string]struct {
		reg    *record.Register
		change events.Change
		remote Remote
		action Action
		seq    uint64 // of the register after it
	}{
		"first":                      {nil, ref("a", "b", 5), Remote{}, ActionBuild, 1},
		"first, created":             {nil, ref(none, "b", 5), Remote{}, ActionBuild, 1},
		"next":                       {standing("a", 1), ref("a", "b", 5), Remote{}, ActionBuild, 8},
		"next, same second":          {standing("a", 5), ref("a", "b", 5), Remote{}, ActionBuild, 8},
		"next, no times":             {standing("a", 0), ref("a", "b", 0), Remote{}, ActionBuild, 8},
		"duplicate":                  {standing("b", 5), ref("a", "b", 5), Remote{}, ActionRedrive, 0},
		"duplicate of other origin":  {standing("b", 5), ref("c", "b", 5), Remote{}, ActionRedrive, 0},
		"no move":                    {standing("b", 5), ref("b", "b", 5), Remote{}, ActionRedrive, 0},
		"gap, not asked":             {standing("a", 1), ref("b", "c", 5), Remote{}, ActionAskRemote, 0},
		"gap, remote agrees":         {standing("a", 1), ref("b", "c", 5), says(id("c")), ActionBuild, 8},
		"gap, remote elsewhere":      {standing("a", 1), ref("b", "c", 5), says(id("d")), ActionStale, 0},
		"gap, ref is gone":           {standing("a", 1), ref("b", "c", 5), says(""), ActionStale, 0},
		"gap, silent, newer":         {standing("a", 1), ref("b", "c", 5), silent, ActionBuild, 8},
		"gap, silent, older":         {standing("a", 9), ref("b", "c", 5), silent, ActionStale, 0},
		"gap, silent, no times":      {standing("a", 0), ref("b", "c", 0), silent, ActionBuild, 8},
		"gap, older, remote agrees":  {standing("a", 9), ref("b", "c", 5), says(id("c")), ActionBuild, 8},
		"old move that fits, asked":  {standing("a", 9), ref("a", "b", 5), Remote{}, ActionAskRemote, 0},
		"old move that fits, stale":  {standing("a", 9), ref("a", "b", 5), says(id("a")), ActionStale, 0},
		"old move that fits, silent": {standing("a", 9), ref("a", "b", 5), silent, ActionStale, 0},
		"deleted":                    {standing("b", 1), ref("b", none, 5), Remote{}, ActionDelete, 7},
		"deleted, never built":       {nil, ref("b", none, 5), Remote{}, ActionIgnore, 0},
		"deleted twice":              {standing("", 5), ref("b", none, 5), Remote{}, ActionDelete, 7},
		"deleted, gap":               {standing("a", 1), ref("b", none, 5), Remote{}, ActionAskRemote, 0},
		"deleted, gap, gone":         {standing("a", 1), ref("b", none, 5), says(""), ActionDelete, 7},
		"deleted, gap, zeros":        {standing("a", 1), ref("b", none, 5), says(id(none)), ActionDelete, 7},
		"deleted, gap, there":        {standing("a", 1), ref("b", none, 5), says(id("a")), ActionStale, 0},
		"deleted, gap, silent":       {standing("a", 1), ref("b", none, 5), silent, ActionDelete, 7},
		"deleted, gap, silent, old":  {standing("a", 9), ref("b", none, 5), silent, ActionStale, 0},
		"old deletion that fits":     {standing("b", 9), ref("b", none, 5), says(id("b")), ActionStale, 0},
		"created again":              {standing("", 5), ref(none, "c", 9), Remote{}, ActionAskRemote, 0},
		"created again, confirmed":   {standing("", 5), ref(none, "c", 9), says(id("c")), ActionBuild, 8},
		"created again, silent":      {standing("", 5), ref(none, "c", 9), silent, ActionBuild, 8},
		"old creation after delete":  {standing("", 5), ref(none, "c", 2), silent, ActionStale, 0},

		"skipped before":             {&record.Register{Head: id("b"), Sequence: 7, Skipped: "no file"}, ref("a", "b", 5), Remote{}, ActionIgnore, 0},
		"after one skipped":          {&record.Register{Head: id("b"), Sequence: 7, Skipped: "no file"}, ref("b", "c", 5), Remote{}, ActionBuild, 8},
		"upload, first":              {nil, object("10", 5), Remote{}, ActionBuild, 1},
		"upload, same":               {objects("10", "", 5), object("10", 5), Remote{}, ActionRedrive, 0},
		"upload, higher":             {objects("9", "", 5), object("10", 1), Remote{}, ActionBuild, 4},
		"upload, lower":              {objects("10", "", 1), object("9", 5), Remote{}, ActionStale, 0},
		"upload, sequencer higher":   {objects("v1", "0f", 5), withOrder(object("v2", 1), "10"), Remote{}, ActionBuild, 4},
		"upload, sequencer lower":    {objects("v1", "10", 1), withOrder(object("v2", 5), "0F"), Remote{}, ActionStale, 0},
		"upload, no order, newer":    {objects("v1", "", 1), object("v2", 5), Remote{}, ActionBuild, 4},
		"upload, no order, older":    {objects("v1", "", 9), object("v2", 5), Remote{}, ActionStale, 0},
		"upload, no order, no times": {objects("v1", "", 9), object("v2", 0), Remote{}, ActionBuild, 4},
	} {
		v := Decide(matchOf("app", tc.change), tc.reg, tc.remote, now)
		if v.Action != tc.action || v.Reason == "" {
			t.Errorf("%s: %s (%s), want %s", name, v.Action, v.Reason, tc.action)
			continue
		}
		if v.Next.Sequence != tc.seq {
			t.Errorf("%s: sequence %d, want %d", name, v.Next.Sequence, tc.seq)
		}
		if v.Action == ActionBuild && (!events.IsBuildID(v.Next.BuildID) || v.Next.Updated != now || v.Next.Head == "") {
			t.Errorf("%s: next register %+v", name, v.Next)
		}
		if v.Action == ActionDelete && (v.Next.Head != "" || name != "deleted twice" && v.Next.BuildID != "") {
			t.Errorf("%s: next register %+v", name, v.Next)
		}
	}
}

// play applies changes to one register as the dispatcher would, asking a
// repository that is at head, and returns the actions and the build ids.
func play(head string, changes ...events.Change) (actions string, builds map[string]bool, last *record.Register) {
	builds = map[string]bool{}
	for i, c := range changes {
		v := Decide(matchOf("app", c), last, Remote{}, at(100+i))
		if v.Action == ActionAskRemote {
			v = Decide(matchOf("app", c), last, Remote{Asked: true, Known: head != "", Head: head}, at(100+i))
		}
		actions += string(v.Action) + " "
		if v.Action == ActionBuild || v.Action == ActionDelete {
			last = &v.Next
		}
		if v.Action == ActionBuild {
			builds[v.Next.BuildID] = true
		}
	}
	return strings.TrimSpace(actions), builds, last
}

// a→b→a→b is four transitions with four builds, and each of them delivered
// twice is still four.
func TestBackAndForth(t *testing.T) {
	moves := []events.Change{ref(none, "a", 1), ref("a", "b", 2), ref("b", "a", 3), ref("a", "b", 4)}
	actions, builds, last := play(id("b"), moves...)
	if actions != "build build build build" || len(builds) != 4 || last.Sequence != 4 {
		t.Errorf("%s, %d builds, sequence %d", actions, len(builds), last.Sequence)
	}
	var twice []events.Change
	for _, c := range moves {
		twice = append(twice, c, c)
	}
	actions, builds, _ = play(id("b"), twice...)
	if actions != "build redrive build redrive build redrive build redrive" || len(builds) != 4 {
		t.Errorf("twice: %s, %d builds", actions, len(builds))
	}
	// All of them again, long after: the first is delivered when the ref stands at b.
	again := append(append([]events.Change{}, moves...), moves[0], moves[2])
	if actions, builds, _ = play(id("b"), again...); len(builds) != 4 {
		t.Errorf("late redeliveries: %s, %d builds", actions, len(builds))
	}
}

// Pushes a→b→c that arrive in the order c, b, a: only c is built after the
// first, with a repository to ask and without.
func TestReversedDelivery(t *testing.T) {
	base, ab, bc := ref(none, "a", 1), ref("a", "b", 2), ref("b", "c", 3)
	for _, head := range []string{id("c"), ""} {
		actions, _, last := play(head, base, bc, ab, base)
		if actions != "build build stale stale" || last.Head != id("c") {
			t.Errorf("head %q: %s, register at %s", head, actions, last.Head)
		}
	}
}

// The builds of one change for two triggers, and of one change at two
// sequences, have different ids; deciding twice gives the same id.
func TestDecisionsAreDeterministic(t *testing.T) {
	a := Decide(matchOf("app", ref(none, "a", 1)), nil, Remote{}, at(1)).Next.BuildID
	if b := Decide(matchOf("app", ref(none, "a", 1)), nil, Remote{}, at(99)).Next.BuildID; a != b {
		t.Errorf("one decision, two ids: %s, %s", a, b)
	}
	if b := Decide(matchOf("web", ref(none, "a", 1)), nil, Remote{}, at(1)).Next.BuildID; a == b {
		t.Error("two triggers, one id")
	}
	if b := Decide(matchOf("app", ref("x", "a", 1)), &record.Register{Head: id("x"), Sequence: 4}, Remote{}, at(1)).Next.BuildID; a == b {
		t.Error("two sequences, one id")
	}
}

// The sequence goes on when a ref is deleted and comes back, so that tags of
// the new one can be moved.
func TestSequenceSurvivesDeletion(t *testing.T) {
	_, builds, last := play(id("a"), ref(none, "a", 1), ref("a", none, 2), ref(none, "a", 3))
	if last.Sequence != 2 || len(builds) != 2 {
		t.Errorf("sequence %d, %d builds", last.Sequence, len(builds))
	}
}
