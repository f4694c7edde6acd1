// Package parts decides what a build for several platforms needs next. Each
// platform is a part: a request of its own, launched like a build, with a claimed
// result and neither tags nor event. When all have succeeded their manifests
// become one index, which is the image of the whole; when one has not, the whole
// ends as it did. It is pure: the state of the parts in, what to do out.
package parts

import (
	"fmt"
	"slices"

	"github.com/kilnhook/kiln/events"
)

// State is where a part stands with the launcher.
type State string

// The states.
const (
	None    State = ""        // the launcher does not know it
	Pending State = "pending" // it waits for its executor
	Running State = "running" // it has begun, or nobody can tell
)

// Part is one platform of a build.
type Part struct {
	Request events.Request
	Result  *events.Result // that was claimed; nil: none yet
	State   State          // of one without a result
}

// Verdict is what the parts of a build call for. At most one of Index and End is
// set, and then nothing is to be launched.
type Verdict struct {
	Launch []events.Request // parts that neither have a result nor exist with the launcher
	Wait   []events.Request // parts whose executor has not started
	Index  bool             // all have succeeded: make the index and end the build
	End    *events.Result   // the outcome of the build, since a part did not succeed
	Stop   []events.Request // with End: parts that may still run
}

// Decide says what the parts of a build call for.
func Decide(all []Part) Verdict {
	if culprit := worst(all); culprit != nil {
		end := failure(*culprit)
		v := Verdict{End: &end}
		for _, p := range all {
			if p.Result == nil {
				v.Stop = append(v.Stop, p.Request)
			}
		}
		return v
	}
	var v Verdict
	done := 0
	for _, p := range all {
		switch {
		case p.Result != nil:
			done++
		case p.State == None:
			v.Launch = append(v.Launch, p.Request)
		case p.State == Pending:
			v.Wait = append(v.Wait, p.Request)
		}
	}
	v.Index = done == len(all)
	return v
}

// worst is the part that a build fails of: one whose own fault it is before one
// that could not be run, and that before one that was only stopped; of equals the
// one that ended first. It is nil if none did other than succeed.
func worst(all []Part) *Part {
	rank := []events.Outcome{events.OutcomeFailed, events.OutcomeError, events.OutcomeCancelled}
	var found *Part
	for i, p := range all {
		if p.Result == nil || p.Result.Outcome == events.OutcomeSuccess {
			continue
		}
		if found == nil {
			found = &all[i]
			continue
		}
		a, b := slices.Index(rank, p.Result.Outcome), slices.Index(rank, found.Result.Outcome)
		if a < b || a == b && p.Result.FinishedAt.Before(found.Result.FinishedAt) {
			found = &all[i]
		}
	}
	return found
}

// failure is the outcome of a build one of whose parts did not succeed.
func failure(p Part) events.Result {
	res := *p.Result
	platform := p.Request.Platform
	if res.Reason != "" {
		res.Reason = platform + ": " + res.Reason
	}
	if res.Message == "" {
		res.Message = string(res.Outcome)
	}
	res.Message = fmt.Sprintf("%s: %s", platform, res.Message)
	res.Platform, res.Layers = platform, nil
	return res.Clean()
}

// Index is the image index of a build.
type Index struct {
	Digest    string
	MediaType string
}

// Success is the outcome of a build all of whose parts have succeeded.
func Success(all []Part, index Index) events.Result {
	res := events.Result{Outcome: events.OutcomeSuccess, Digest: index.Digest, MediaType: index.MediaType, DurationMS: map[string]int64{}}
	for i, p := range all {
		r := p.Result
		if info, ok := events.NewPlatformInfo(p.Request.Platform, r.Digest); ok {
			res.Platforms = append(res.Platforms, info)
		}
		res.Size += r.Size
		res.Cache.Hits += r.Cache.Hits
		res.Cache.Misses += r.Cache.Misses
		for _, b := range r.Bases {
			if !slices.Contains(res.Bases, b) {
				res.Bases = append(res.Bases, b)
			}
		}
		for phase, ms := range r.DurationMS {
			res.DurationMS[phase] = max(res.DurationMS[phase], ms)
		}
		if i == 0 {
			res.Isolation = r.Isolation
		} else if res.Isolation != r.Isolation {
			res.Isolation = ""
		}
		if !r.StartedAt.IsZero() && (res.StartedAt.IsZero() || r.StartedAt.Before(res.StartedAt)) {
			res.StartedAt = r.StartedAt
		}
		if r.FinishedAt.After(res.FinishedAt) {
			res.FinishedAt = r.FinishedAt
		}
	}
	return res
}

// Platforms are the platforms of a build with the digests of their manifests, as
// they stand in its index. Which platform a part is for is what was asked, not
// what its executor says.
func Platforms(all []Part) []events.PlatformInfo { return Success(all, Index{}).Platforms }
