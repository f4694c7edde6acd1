package dispatch

import (
	"slices"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
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
	ActionLate      Action = "late"       // an upload older than the last, to be built all the same
	ActionSkip      Action = "skip"       // the change is next and not to be built: enter only that
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
	Next   record.Register // what the register is to say; only for ActionBuild, ActionSkip and ActionDelete
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
func Decide(m trigger.Match, reg *record.Register, remote Remote, now time.Time) Verdict {
	c := m.Request.Change
	if c.Kind != events.KindGit {
		return decideObject(m, reg, c, now)
	}
	if c.Deleted() {
		return decideDeleted(reg, c, remote, now)
	}
	switch {
	case reg == nil:
		return build(m, record.Register{}, now, "first change of this ref")
	case reg.Head == c.After && reg.Skipped != "":
		return Verdict{Action: ActionIgnore, Reason: reg.Skipped}
	case reg.Head == c.After:
		return Verdict{Action: ActionRedrive, Reason: "this change was accepted before"}
	case reg.Head == c.Before && reg.Head != "" && !older(c, reg):
		return build(m, *reg, now, "next change of this ref")
	}
	return decideGap(m, reg, c, remote, now)
}

// decideGap decides on a change that does not follow the register's.
func decideGap(m trigger.Match, reg *record.Register, c events.Change, remote Remote, now time.Time) Verdict {
	switch {
	case !remote.Asked:
		return Verdict{Action: ActionAskRemote, Reason: "the change does not follow the last one"}
	case remote.Known && remote.Head == c.After:
		return build(m, *reg, now, "the repository is at this change")
	case remote.Known:
		return Verdict{Action: ActionStale, Reason: "the repository has moved on from this change"}
	case older(c, reg):
		return Verdict{Action: ActionStale, Reason: "a later change was accepted before"}
	}
	return build(m, *reg, now, "the change does not follow the last one and is not older")
}

// decideDeleted decides on the deletion of a ref. The register stays, without a
// head, so that its sequence goes on if the ref comes back.
func decideDeleted(reg *record.Register, c events.Change, remote Remote, now time.Time) Verdict {
	gone := func() Verdict {
		next := *reg
		next.Head, next.BuildID, next.Skipped, next.ChangeTime, next.Updated = "", "", "", c.Time, now
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
func decideObject(m trigger.Match, reg *record.Register, c events.Change, now time.Time) Verdict {
	if reg == nil {
		return build(m, record.Register{}, now, "first upload of this object")
	}
	if reg.Head == c.Generation {
		return Verdict{Action: ActionRedrive, Reason: "this upload was accepted before"}
	}
	last := events.Change{Generation: reg.Head, Order: reg.Order}
	order, known := c.CompareOrder(last)
	if known && order < 0 || !known && older(c, reg) {
		if m.EveryGeneration() {
			return late(m, *reg, now)
		}
		return Verdict{Action: ActionStale, Reason: "a later upload was accepted before"}
	}
	return build(m, *reg, now, "next upload of this object")
}

// build is the verdict that a change is next.
func build(m trigger.Match, reg record.Register, now time.Time, reason string) Verdict {
	c := m.Request.Change
	c.Files = nil
	next := record.Register{
		Location: c.Location, Name: c.Name, Head: c.Generation, Order: c.Order,
		Sequence: reg.Sequence + 1, ChangeTime: c.Time, Updated: now,
		Trigger: m.Trigger.Name, Tenant: m.Trigger.Tenant, Change: c, Repeats: reg.Repeats,
	}
	if c.Kind == events.KindGit {
		next.Head = c.After
	}
	if next.ChangeTime.IsZero() {
		next.ChangeTime = reg.ChangeTime
	}
	next.BuildID = events.Request{Trigger: m.Trigger.Name, Sequence: next.Sequence, Change: c}.DeriveBuildID()
	return Verdict{Action: ActionBuild, Reason: reason, Next: next}
}

// late is the verdict that an upload came after a later one and is to be built
// all the same. The register stays; the build's sequence is 0, so that it takes
// no tag from any other.
func late(m trigger.Match, reg record.Register, now time.Time) Verdict {
	v := build(m, reg, now, "every upload is built")
	v.Action, v.Next.Sequence = ActionLate, 0
	return v
}

// skip is the verdict that a change is next and is not to be built: the
// register follows, and what was built last stays the last build.
func skip(v Verdict, reg *record.Register, reason string) Verdict {
	next := v.Next
	if reg != nil {
		next.Sequence, next.BuildID, next.Change, next.Nonce = reg.Sequence, reg.BuildID, reg.Change, reg.Nonce
	} else {
		next.Sequence, next.BuildID, next.Change = 0, "", events.Change{}
	}
	next.Skipped = reason
	return Verdict{Action: ActionSkip, Reason: reason, Next: next}
}

// repeat is the register after the last change was built once more for a
// cause; or, if it was before, done is that build.
func repeat(reg record.Register, cause string, now time.Time) (next record.Register, done string) {
	for _, r := range reg.Repeats {
		if r.Cause == cause {
			return reg, r.BuildID
		}
	}
	next = reg
	next.Nonce++
	next.Updated = now
	next.BuildID = events.Request{Trigger: reg.Trigger, Sequence: reg.Sequence, Change: reg.Change, Nonce: next.Nonce}.DeriveBuildID()
	next.Repeats = append(slices.Clone(reg.Repeats), record.Repeat{Cause: cause, BuildID: next.BuildID})
	if extra := len(next.Repeats) - record.MaxRepeats; extra > 0 {
		next.Repeats = slices.Delete(next.Repeats, 0, extra)
	}
	return next, ""
}

// older reports whether a change says that it happened before the last one
// that was accepted.
func older(c events.Change, reg *record.Register) bool {
	return !c.Time.IsZero() && !reg.ChangeTime.IsZero() && c.Time.Before(reg.ChangeTime)
}
