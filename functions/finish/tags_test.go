package finish

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// A late old build never takes a tag from a newer one, and still says that it
// succeeded.
func TestLateOldBuild(t *testing.T) {
	w := newWorld()
	old, young := w.request(t, 7), w.request(t, 8)
	f := w.finisher(t)
	mustFinish(t, f, young.BuildID, w.success(8))
	got := mustFinish(t, f, old.BuildID, w.success(7))
	if got.Outcome != events.OutcomeSuccess || w.tags["main"] != digest(8) {
		t.Errorf("outcome %s, tags %v", got.Outcome, w.tags)
	}
	if len(w.moves) != 2 { // the two tags of the younger
		t.Errorf("moves %v", w.moves)
	}
	var fin events.Finished
	if err := w.published[1].DataAs(&fin); err != nil || len(fin.Image.TagsMoved) != 0 || len(fin.Image.Tags) != 2 {
		t.Errorf("event of the old build: %+v, %v", fin.Image, err)
	}
}

// In order, each build moves the tags.
func TestBuildsInOrder(t *testing.T) {
	w := newWorld()
	f := w.finisher(t)
	for n := 1; n <= 3; n++ {
		mustFinish(t, f, w.request(t, uint64(n)).BuildID, w.success(n))
		if w.tags["main"] != digest(n) {
			t.Errorf("after build %d: tags %v", n, w.tags)
		}
	}
}

// The finisher of the old build dies after it claimed the tag, or after it
// moved it; the newer build finishes; then the old build is finished again.
// The tag stays with the newer one.
func TestOldBuildResumesAfterNewer(t *testing.T) {
	for _, where := range []string{"before move tags", "after move tags", "before publish", "after publish"} {
		w := newWorld()
		old, young := w.request(t, 7), w.request(t, 8)
		died := errors.New("died")
		w.Fault = func(step string) error {
			if step == where {
				return died
			}
			return nil
		}
		if _, err := w.finisher(t).Finish(t.Context(), old.BuildID, w.success(7)); !errors.Is(err, died) {
			t.Fatal(err)
		}
		w.Fault = nil
		mustFinish(t, w.finisher(t), young.BuildID, w.success(8))
		mustFinish(t, w.finisher(t), old.BuildID, lost())
		if w.tags["main"] != digest(8) || w.tags["latest"] != digest(8) {
			t.Errorf("died %s: tags %v", where, w.tags)
		}
	}
}

// The move of the old build hangs in the network while the newer build claims
// and moves the tag, in another process, and then overwrites it: the old
// build's finisher notices and puts the newer digest back.
func TestStalledMoveIsRepaired(t *testing.T) {
	w := newWorld()
	old, young := w.request(t, 7), w.request(t, 8)
	other := w.finisher(t)
	youngRes := w.success(8)
	var once sync.Once
	w.slow = func(tag, d string) {
		if tag == "main" && d == digest(7) {
			once.Do(func() { mustFinish(t, other, young.BuildID, youngRes) })
		}
	}
	mustFinish(t, w.finisher(t), old.BuildID, w.success(7))
	if w.tags["main"] != digest(8) || w.tags["latest"] != digest(8) {
		t.Errorf("tags %v after moves %v", w.tags, w.moves)
	}
}

// Many builds of one group finish at once in many processes: the newest has
// the tags in the end.
func TestNewestWinsAlways(t *testing.T) {
	for round := range 10 {
		w := newWorld()
		const builds = 12
		w.slow = func(string, string) { time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond) }
		var wg sync.WaitGroup
		for _, n := range rand.Perm(builds) {
			req, res, f := w.request(t, uint64(n+1)), w.success(n+1), w.finisher(t)
			wg.Go(func() {
				if _, err := f.Finish(t.Context(), req.BuildID, res); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if w.tags["main"] != digest(builds) || w.tags["latest"] != digest(builds) {
			t.Fatalf("round %d: tags %v", round, w.tags)
		}
	}
}

// A registry that refuses for good does not keep a build from finishing; one
// that fails does, until it works again.
func TestMoveRefused(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	refuse := fmt.Errorf("tag is immutable: %w", fs.ErrPermission)
	w.Fault = func(step string) error {
		if step == "before move tags" {
			return refuse
		}
		return nil
	}
	if got := mustFinish(t, w.finisher(t), req.BuildID, w.success(1)); got.Outcome != events.OutcomeSuccess {
		t.Errorf("%+v", got)
	}
	var fin events.Finished
	if err := w.published[0].DataAs(&fin); err != nil || len(fin.Image.TagsMoved) != 0 {
		t.Errorf("tags moved %v, %v", fin.Image.TagsMoved, err)
	}
	w = newWorld()
	req = w.request(t, 1)
	refuse = errors.New("502 bad gateway")
	w.Fault = func(step string) error {
		if step == "before move tags" {
			return refuse
		}
		return nil
	}
	if _, err := w.finisher(t).Finish(t.Context(), req.BuildID, w.success(1)); !errors.Is(err, refuse) || len(w.published) != 0 {
		t.Errorf("published %d, %v", len(w.published), err)
	}
	w.Fault = nil
	mustFinish(t, w.finisher(t), req.BuildID, lost())
	if w.tags["main"] != digest(1) {
		t.Errorf("tags %v", w.tags)
	}
}

// Which of two builds a tag belongs to.
func TestNewer(t *testing.T) {
	base := record.Tag{BuildID: "b", Tenant: "t", Group: "g", Sequence: 7, RequestedAt: time.Unix(100, 0)}
	change := func(f func(*record.Tag)) record.Tag { tag := base; f(&tag); return tag }
	for name, younger := range map[string]record.Tag{
		"sequence": change(func(r *record.Tag) { r.Sequence = 8; r.RequestedAt = time.Unix(1, 0) }),
		"nonce":    change(func(r *record.Tag) { r.Nonce = 1; r.RequestedAt = time.Unix(1, 0) }),
		"other group, later": change(func(r *record.Tag) {
			r.Group, r.Sequence, r.RequestedAt = "h", 1, time.Unix(101, 0)
		}),
		"other tenant, later": change(func(r *record.Tag) {
			r.Tenant, r.Sequence, r.RequestedAt = "u", 1, time.Unix(101, 0)
		}),
		"all the same but the id": change(func(r *record.Tag) { r.BuildID = "c" }),
	} {
		if !newer(younger, base) || newer(base, younger) {
			t.Errorf("%s: %t and %t", name, newer(younger, base), newer(base, younger))
		}
	}
	if newer(base, base) {
		t.Error("a build is newer than itself")
	}
}

// Branches that share a tag take it in the order in which they were requested.
func TestTagSharedByGroups(t *testing.T) {
	w := newWorld()
	first := w.request(t, 9)
	second := w.request(t, 10)
	second.Group, second.Change.Name, second.Sequence = "app/refs/heads/dev", "refs/heads/dev", 1
	second.BuildID = second.DeriveBuildID()
	w.store(t, second)
	f := w.finisher(t)
	mustFinish(t, f, second.BuildID, w.success(2))
	mustFinish(t, f, first.BuildID, w.success(1))
	if w.tags["latest"] != digest(2) {
		t.Errorf("tags %v", w.tags)
	}
}
