package crash

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/ledger"
)

// point is a step at which the dispatcher is killed.
type point struct {
	at string
	// forgets says that nothing was written yet that a sweep could find: only the
	// sender, or a sweep that asks the repository, can bring the change back.
	forgets bool
	step    string // of the transaction, or row of the failure matrix
}

// points are all steps of one build, in order.
func points() []point {
	return []point{
		{"before create open/*/*", true, "row 2: verified, nothing written"},
		{"after create open/*/*", true, "step 3: written down, not entered"},
		{"before swap refs/default/*", true, "step 3"},
		{"after swap refs/default/*", false, "row 5: entered, no request"},
		{"before create builds/*/request.json", false, "step 4"},
		{"after create builds/*/request.json", false, "row 6: requested, no executor"},
		{"before publish dev.kilnhook.build.requested.v1 *", false, "step 4, told"},
		{"after publish dev.kilnhook.build.requested.v1 *", false, "step 4, told"},
		{"after create index/*", false, "step 4, listed"},
		{"before launch *", false, "step 5"},
		{"after launch *", false, "row 7: executor, no answer"},
		{"after publish dev.kilnhook.build.queued.v1 *", false, "step 6"},
		{"before answer", false, "row 3: done, no answer"},
		{"before publish dev.kilnhook.build.started.v1 *", false, "row 14: the executor runs"},
		{"after publish dev.kilnhook.build.started.v1 *", false, "row 14: the executor runs"},
		{"before create builds/*/result.json", false, "row 15: pushed, not claimed"},
		{"after create builds/*/result.json", false, "row 16: claimed, no tag"},
		{"before tags", false, "row 16"},
		{"after tags", false, "row 17: tags, not told"},
		{"before publish dev.kilnhook.build.finished.v1 *", false, "row 24"},
		{"after publish dev.kilnhook.build.finished.v1 *", false, "row 21: told, no mark"},
		{"after create builds/*/emitted.json", false, "row 21: marked, still open"},
		{"after delete open/*/*", false, "row 17: all done"},
	}
}

// Killed at any step, whether the sender comes again or only the sweep does:
// one build, one outcome, told once, the tag in its place.
func TestKilledAtEveryStep(t *testing.T) {
	for _, redelivered := range []bool{true, false} {
		for _, p := range points() {
			if p.forgets && !redelivered {
				continue // TestHeal of functions/dispatch has the sweep that asks the repository
			}
			name := strings.NewReplacer(" ", "_", "/", ".", "*", "x").Replace(p.at)
			if redelivered {
				name += "/redelivered"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, "FROM x")
				first := l.start(p.at)
				status := first.push(t, "0", "a")
				first.died(t, p.at)
				if p.forgets && status/100 == 2 {
					t.Errorf("the sender was told that a change was received that is not durable: %d", status)
				}
				second := l.start("")
				if redelivered {
					if status := second.push(t, "0", "a"); status != http.StatusAccepted {
						t.Errorf("redelivery: %d", status)
					}
				}
				want := buildID(1, "0", "a")
				l.await(p.step, want)
				second.kill()
				l.check(p.step, want)
			})
		}
	}
}

// Killed at any step of how the directory ledger writes, in the first, a middle
// and a late write of a build: the same end.
func TestKilledInTheLedger(t *testing.T) {
	var at []string
	for _, s := range []ledger.Step{ledger.StepWritten, ledger.StepSynced, ledger.StepApplied, ledger.StepNoted} {
		for _, nth := range []int{1, 2, 3, 5, 8} {
			at = append(at, fmt.Sprintf("ledger %s %d", s, nth))
		}
	}
	for _, s := range []ledger.Step{ledger.StepRotated, ledger.StepFlushed, ledger.StepTidied} {
		at = append(at, fmt.Sprintf("ledger %s 1", s))
	}
	for _, point := range at {
		t.Run(strings.ReplaceAll(point, " ", "_"), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, "FROM x")
			first := l.start(point)
			first.push(t, "0", "a")
			first.died(t, point)
			second := l.start("")
			if status := second.push(t, "0", "a"); status != http.StatusAccepted {
				t.Errorf("redelivery: %d", status)
			}
			want := buildID(1, "0", "a")
			l.await(point, want)
			second.kill()
			l.check(point, want)
		})
	}
}

// Killed between starting a build and cancelling the one it supersedes (row 8),
// and at each step of that: the older is cancelled, once, and takes no tag.
func TestKilledWhileSuperseding(t *testing.T) {
	newer := buildID(2, "a", "b")
	for _, at := range []string{
		"after launch " + newer, "after publish dev.kilnhook.build.queued.v1 " + newer + ".queued.1", "before create builds/*/result.json",
		"after create builds/*/result.json", "before cancel", "after cancel", "after publish dev.kilnhook.build.finished.v1 *", "after delete open/*/*",
	} {
		t.Run(strings.NewReplacer(" ", "_", "/", ".", "*", "x").Replace(at), func(t *testing.T) {
			t.Parallel()
			gate := filepath.Join(t.TempDir(), "go")
			l := newLab(t, "# wait "+gate)
			first := l.start(at)
			if status := first.push(t, "0", "a"); status != http.StatusAccepted {
				t.Fatalf("%d", status)
			}
			first.push(t, "a", "b")
			first.died(t, at)
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			second := l.start("")
			second.push(t, "a", "b")
			a, b := buildID(1, "0", "a"), buildID(2, "a", "b")
			l.await(at, a, b)
			second.kill()
			l.check(at, a, b)
			// The older may have been quicker than its cancellation after the
			// restart; the tag is the newer's all the same, which check saw.
			if got := l.outcome(a); got.Outcome != events.OutcomeCancelled && got.Outcome != events.OutcomeSuccess {
				t.Errorf("the superseded build: %+v", got)
			}
		})
	}
}

// Killed in the middle of a build (rows 14 and 28): it is built again, as a
// second attempt, and ends once.
func TestKilledWhileBuilding(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "go")
	l := newLab(t, "# wait "+gate)
	first := l.start("")
	if status := first.push(t, "0", "a"); status != http.StatusAccepted {
		t.Fatalf("%d", status)
	}
	want := buildID(1, "0", "a")
	for range 500 {
		if data, err := os.ReadFile(filepath.Join(l.dir, "builds", "live", want+".json")); err == nil && strings.Contains(string(data), `"process":{`) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	first.kill()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := l.start("")
	l.await("row 14", want)
	second.kill()
	l.check("row 14", want)
}

// The same webhook a hundred times at once, and killed amid that: one build, one
// event.
func TestHundredAtOnce(t *testing.T) {
	for _, at := range []string{"", "after swap refs/default/*", "after launch *"} {
		l := newLab(t, "FROM x")
		first := l.start(at)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { first.push(t, "0", "a") })
		}
		wg.Wait()
		if at != "" {
			first.died(t, at)
			first = l.start("")
		}
		if status := first.push(t, "0", "a"); status != http.StatusAccepted {
			t.Errorf("%d", status)
		}
		want := buildID(1, "0", "a")
		l.await("a hundred at once", want)
		first.kill()
		l.check("a hundred at once", want)
	}
}

// The executor killed as it starts, while it works, after its push and after it
// wrote its result: one outcome, told once, and a digest that is told is there.
func TestExecutorKilledAnywhere(t *testing.T) {
	for name, tc := range map[string]struct {
		dockerfile string
		outcome    events.Outcome
	}{
		"by itself":      {"# kill", events.OutcomeError},
		"while it works": {"# wait /nonexistent", events.OutcomeError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, tc.dockerfile)
			s := l.start("")
			if status := s.push(t, "0", "a"); status != http.StatusAccepted {
				t.Fatalf("%d", status)
			}
			want := buildID(1, "0", "a")
			if strings.Contains(tc.dockerfile, "wait") {
				killExecutor(t, filepath.Join(l.dir, "builds", "live", want+".json"))
			}
			l.await(name, want)
			if got := l.outcome(want); got.Outcome != tc.outcome || got.Class != events.ClassInfra || got.Digest != "" {
				t.Errorf("%+v", got)
			}
			s.kill()
		})
	}
}

// killExecutor kills the process that a build's note names.
func killExecutor(t *testing.T, note string) {
	t.Helper()
	for range 1000 {
		var live struct{ Process *struct{ PID int } }
		data, err := os.ReadFile(note)
		if err == nil && json.Unmarshal(data, &live) == nil && live.Process != nil {
			if err := syscall.Kill(live.Process.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the executor does not start")
}

// A context that is gone before it is fetched fails the build, once and without
// a second try (row 30).
func TestContextGone(t *testing.T) {
	l := newLab(t, "FROM x")
	if err := os.Remove(l.context); err != nil {
		t.Fatal(err)
	}
	s := l.start("")
	if status := s.push(t, "0", "a"); status != http.StatusAccepted {
		t.Fatalf("%d", status)
	}
	want := buildID(1, "0", "a")
	l.await("row 30", want)
	s.kill()
	if got := l.outcome(want); got.Outcome != events.OutcomeFailed || got.Class != events.ClassSource {
		t.Errorf("%+v", got)
	}
}
