package scenario

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/dispatch"
)

// hundred proves that a push that is delivered a hundred times at once is one
// build with one end.
func hundred(t *testing.T, s *story) {
	a := s.commits(t, "RUN echo built")[0]
	const times = 100
	var mu sync.Mutex
	var wg sync.WaitGroup
	ids, news := map[string]bool{}, 0
	for range times {
		wg.Go(func() {
			d, err := s.deliver(none, a, 1)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[d.BuildID] = true
			if d.Status == dispatch.StatusNew {
				news++
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 || news > 1 {
		t.Fatalf("%d deliveries are the builds %v, %d of them new", times, ids, news)
	}
	for id := range ids {
		if digest := s.succeeds(t, id); s.tagged(t) != digest {
			t.Errorf("the tag is not at %s", digest)
		}
	}
}

// reversed proves that of pushes which arrive in the wrong order only the newest
// is tagged.
func reversed(t *testing.T, s *story) {
	ids := s.commits(t, "RUN echo base", "RUN echo a", "RUN echo b", "RUN echo c")
	s.succeeds(t, s.must(t, none, ids[0], 1).BuildID)
	c := s.must(t, ids[2], ids[3], 4)
	for i, d := range []dispatch.Decision{s.must(t, ids[1], ids[2], 3), s.must(t, ids[0], ids[1], 2)} {
		if d.Status != dispatch.StatusStale || d.BuildID != "" {
			t.Errorf("old push %d: %+v", i, d)
		}
	}
	digest := s.succeeds(t, c.BuildID)
	if s.tagged(t) != digest {
		t.Errorf("the tag is at %s, not at that of c, %s", s.tagged(t), digest)
	}
}

// transitions proves that a branch which goes back and forth is built once for
// each commit, and that the tag follows it.
func transitions(t *testing.T, s *story) {
	ids := s.commits(t, "RUN echo a", "RUN echo b")
	a, b := ids[0], ids[1]
	var digests []string
	for i, step := range [][2]string{{none, a}, {a, b}, {b, a}, {a, b}} {
		d := s.must(t, step[0], step[1], i+1)
		digest := s.succeeds(t, d.BuildID)
		if s.tagged(t) != digest {
			t.Errorf("step %d: the tag is at %s, not at %s", i, s.tagged(t), digest)
		}
		digests = append(digests, digest)
		if again := s.must(t, step[0], step[1], i+1); again.Status != dispatch.StatusDuplicate || again.BuildID != d.BuildID {
			t.Errorf("step %d again: %+v", i, again)
		}
	}
	// What is built anew has another time in it, and so another digest.
	if digests[0] != digests[2] || digests[1] != digests[3] || digests[0] == digests[1] {
		t.Errorf("digests %v", digests)
	}
}

// superseded proves that a newer push ends the build of the one before.
func superseded(t *testing.T, s *story) {
	ids := s.commits(t, "RUN sleep 60", "RUN echo b")
	a := s.must(t, none, ids[0], 1)
	time.Sleep(2 * time.Second) // so that it runs, or is about to
	b := s.must(t, ids[0], ids[1], 2)
	if data := s.ends(t, a.BuildID); data.Outcome != events.OutcomeCancelled || data.Class != events.ClassSuperseded {
		t.Errorf("the old build: %+v", data)
	}
	if digest := s.succeeds(t, b.BuildID); s.tagged(t) != digest {
		t.Errorf("the tag is at %s, not at %s", s.tagged(t), digest)
	}
}

// cancelled proves that a build which a person cancels ends so, once.
func cancelled(t *testing.T, s *story) {
	a := s.must(t, none, s.commits(t, "RUN sleep 60")[0], 1)
	time.Sleep(2 * time.Second)
	for range 2 {
		var answer any
		s.ask(t, http.MethodPost, "builds/"+a.BuildID+"/cancel", "{}", &answer)
	}
	if data := s.ends(t, a.BuildID); data.Outcome != events.OutcomeCancelled {
		t.Errorf("the build: %+v", data)
	}
}

// rebuilt proves that asking twice for a build again is asking once.
func rebuilt(t *testing.T, s *story) {
	a := s.must(t, none, s.commits(t, "RUN date +%N >/when")[0], 1)
	first := s.succeeds(t, a.BuildID)
	var ids []string
	for range 2 {
		again, err := s.decision(s.request(t, http.MethodPost, dispatch.APIPrefix+"builds/"+a.BuildID+"/rebuild", "", map[string]string{"Idempotency-Key": s.name}))
		check(t, err)
		ids = append(ids, again.BuildID)
	}
	if ids[0] != ids[1] || ids[0] == a.BuildID {
		t.Fatalf("build %s again is %v", a.BuildID, ids)
	}
	if second := s.succeeds(t, ids[0]); second == first || s.tagged(t) != second {
		t.Errorf("first %s, again %s, the tag is at %s", first, second, s.tagged(t))
	}
}
