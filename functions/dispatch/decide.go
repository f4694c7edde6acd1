package dispatch

import (
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// Action is what a change calls for.
type Action string

// The actions.
const (
	ActionBuild     Action = "build"      // the change is next: enter it in the register and build it
	ActionRedrive   Action = "redrive"    // the change is the last one again: see that its build was really asked for
	ActionStale     Action = "stale"      // something newer was accepted: nothing to do
	ActionDelete    Action = "delete"     // the ref is gone: enter that, cancel its builds
	ActionIgnore    Action = "ignore"     // nothing to do
	ActionAskRemote Action = "ask-remote" // only the repository knows; decide again with its answer
)

// Remote is what the repository said about where a ref is.
type Remote struct {
	Asked bool   // whether it was asked, or nobody can ask
	Known bool   // whether it answered
	Head  string // object id of the ref; empty or zeros if there is no such ref
}

// Verdict is a decision.
type Verdict struct {
	Action Action
	Reason string          // for people
	Next   record.Register // what the register is to say; only for ActionBuild and ActionDelete
}

// Decide says what a change of a ref or an object calls for, given the register
// of it (nil if there is none) and what the repository said. It is pure.
//
// A ref's changes form a chain: one that begins where the register stands is
// next, one that ends there is a repetition. So a→b→a→b is four builds, and any
// of them delivered twice is one. What does neither came out of order, after
// one that was lost, or after a history was rewritten; then the repository
// decides, and where it cannot be asked, time does. An object's changes are
// ordered by generation, or by time where generations are not.
func Decide(trigger string, reg *record.Register, c events.Change, remote Remote, now time.Time) Verdict {
	if c.Kind != events.KindGit {
		return decideObject(trigger, reg, c, now)
	}
	if c.Deleted() {
		return decideDeleted(reg, c, remote, now)
	}
	switch {
	case reg == nil:
		return build(trigger, record.Register{}, c, now, "first change of this ref")
	case reg.Head == c.After:
		return Verdict{Action: ActionRedrive, Reason: "this change was accepted before"}
	case reg.Head == c.Before && reg.Head != "" && !older(c, reg):
		return build(trigger, *reg, c, now, "next change of this ref")
	}
	return decideGap(trigger, reg, c, remote, now)
}

// decideGap decides on a change that does not follow the register's.
func decideGap(trigger string, reg *record.Register, c events.Change, remote Remote, now time.Time) Verdict {
	switch {
	case !remote.Asked:
		return Verdict{Action: ActionAskRemote, Reason: "the change does not follow the last one"}
	case remote.Known && remote.Head == c.After:
		return build(trigger, *reg, c, now, "the repository is at this change")
	case remote.Known:
		return Verdict{Action: ActionStale, Reason: "the repository has moved on from this change"}
	case older(c, reg):
		return Verdict{Action: ActionStale, Reason: "a later change was accepted before"}
	}
	return build(trigger, *reg, c, now, "the change does not follow the last one and is not older")
}

// decideDeleted decides on the deletion of a ref. The register stays, without a
// head, so that its sequence goes on if the ref comes back.
func decideDeleted(reg *record.Register, c events.Change, remote Remote, now time.Time) Verdict {
	gone := func() Verdict {
		next := *reg
		next.Head, next.BuildID, next.ChangeTime, next.Updated = "", "", c.Time, now
		return Verdict{Action: ActionDelete, Reason: "the ref was deleted", Next: next}
	}
	switch {
	case reg == nil:
		return Verdict{Action: ActionIgnore, Reason: "the ref was deleted and never built"}
	case reg.Head == "":
		return Verdict{Action: ActionDelete, Reason: "the ref was deleted before", Next: *reg}
	case reg.Head == c.Before && !older(c, reg):
		return gone()
	case !remote.Asked:
		return Verdict{Action: ActionAskRemote, Reason: "the deletion does not follow the last change"}
	case remote.Known && events.IsZeroID(remote.Head):
		return gone()
	case remote.Known:
		return Verdict{Action: ActionStale, Reason: "the ref was deleted and is there again"}
	case older(c, reg):
		return Verdict{Action: ActionStale, Reason: "a later change was accepted before the deletion"}
	}
	return gone()
}

// decideObject decides on an object that was stored.
func decideObject(trigger string, reg *record.Register, c events.Change, now time.Time) Verdict {
	if reg == nil {
		return build(trigger, record.Register{}, c, now, "first upload of this object")
	}
	if reg.Head == c.Generation {
		return Verdict{Action: ActionRedrive, Reason: "this upload was accepted before"}
	}
	last := events.Change{Generation: reg.Head, Order: reg.Order}
	order, known := c.CompareOrder(last)
	if known && order < 0 || !known && older(c, reg) {
		return Verdict{Action: ActionStale, Reason: "a later upload was accepted before"}
	}
	return build(trigger, *reg, c, now, "next upload of this object")
}

// build is the verdict that a change is next.
func build(trigger string, reg record.Register, c events.Change, now time.Time, reason string) Verdict {
	next := record.Register{
		Location: c.Location, Name: c.Name, Head: c.Generation, Order: c.Order,
		Sequence: reg.Sequence + 1, ChangeTime: c.Time, Updated: now,
	}
	if c.Kind == events.KindGit {
		next.Head = c.After
	}
	if next.ChangeTime.IsZero() {
		next.ChangeTime = reg.ChangeTime
	}
	next.BuildID = events.Request{Trigger: trigger, Sequence: next.Sequence, Change: c}.DeriveBuildID()
	return Verdict{Action: ActionBuild, Reason: reason, Next: next}
}

// older reports whether a change says that it happened before the last one
// that was accepted.
func older(c events.Change, reg *record.Register) bool {
	return !c.Time.IsZero() && !reg.ChangeTime.IsZero() && c.Time.Before(reg.ChangeTime)
}
