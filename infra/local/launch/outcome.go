package launch

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/kilnhook/kiln/events"
)

// ending is everything known about an executor that has ended.
type ending struct {
	result    *events.Result // what it wrote; nil if nothing that can be used
	resultErr error          // why result is nil
	startErr  error          // why it never ran
	exitCode  int
	signal    syscall.Signal // that killed it; 0 if it exited
	timedOut  bool           // we stopped it: too long
	cancelled bool           // we stopped it: asked to
	oom       bool           // the kernel killed something for want of memory while it ran
	diskFull  bool           // there is no space left where it worked
	lastWords string         // last lines of its log that are for people

	timeout           time.Duration
	started, finished time.Time
}

// derive decides the outcome of a build. What the executor says of itself is
// believed, except where it was stopped or starved.
func derive(e ending) events.Result {
	res := events.Result{StartedAt: e.started, FinishedAt: e.finished, ExitCode: e.exitCode}
	if e.result != nil {
		res = *e.result
		if res.StartedAt.IsZero() {
			res.StartedAt = e.started
		}
		if res.FinishedAt.IsZero() {
			res.FinishedAt = e.finished
		}
		if res.Outcome == events.OutcomeSuccess {
			return res
		}
	}
	set := func(outcome events.Outcome, class events.Class, reason, message string) {
		res.Outcome, res.Class, res.Reason = outcome, class, reason
		if res.Message == "" || e.timedOut || e.cancelled {
			res.Message = message
		}
	}
	switch {
	case e.startErr != nil:
		set(events.OutcomeError, events.ClassInfraStart, "executor not started",
			fmt.Sprintf("the executor could not be started: %v", e.startErr))
	case e.cancelled:
		set(events.OutcomeCancelled, events.ClassNone, "cancelled", "the build was cancelled while it ran")
	case e.timedOut:
		set(events.OutcomeFailed, events.ClassTimeout, "timeout",
			fmt.Sprintf("the build took longer than %s and was stopped; raise run.timeout in the trigger if it needs more", e.timeout))
	case e.oom && (e.signal == syscall.SIGKILL || e.exitCode == 128+int(syscall.SIGKILL) || res.ExitCode == 128+int(syscall.SIGKILL)):
		set(events.OutcomeFailed, events.ClassOOM, "out of memory",
			"the kernel killed the build because memory ran out; give the machine more, or build less at once (--max-parallel)")
	case (e.diskFull || saysDiskFull(e)) && (e.result == nil || e.result.Class != events.ClassConfig && e.result.Class != events.ClassSource):
		set(events.OutcomeFailed, events.ClassDisk, "disk full", "no space is left on the disk that holds the data directory; free some and build again")
	case e.result != nil:
	case e.signal != 0:
		set(events.OutcomeError, events.ClassInfra, "executor killed",
			withWords(fmt.Sprintf("the executor was killed by signal %d (%s) before it finished, and not by kiln", int(e.signal), e.signal), e.lastWords))
	default:
		set(events.OutcomeError, events.ClassInfra, "no result", withWords(noResult(e), e.lastWords))
	}
	return res
}

// saysDiskFull reports whether what failed said itself that the disk was full.
// When the executor has tidied up, the disk no longer shows it.
func saysDiskFull(e ending) bool {
	text := e.lastWords
	if e.result != nil {
		text += e.result.Message
	}
	return strings.Contains(strings.ToLower(text), syscall.ENOSPC.Error())
}

func noResult(e ending) string {
	text := fmt.Sprintf("the executor ended with status %d and left no result", e.exitCode)
	if e.resultErr != nil && !errors.Is(e.resultErr, syscall.ENOENT) {
		text += fmt.Sprintf(" that can be read (%v)", e.resultErr)
	}
	return text
}

func withWords(text, words string) string {
	if words = strings.TrimSpace(words); words != "" {
		return text + "; its last words: " + words
	}
	return text
}
