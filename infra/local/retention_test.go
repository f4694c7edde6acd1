package local_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/port"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/keep"
)

// What is old goes, with its log and its context; what runs, what is newest and
// what a build still needs stays.
func TestRetention(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "go")
	cfg := config(t, t.TempDir())
	cfg.Parallel = 1
	clock := time.Now
	ahead := time.Duration(0)
	cfg.Now = func() time.Time { return clock().Add(ahead) }
	cfg.Keep = keep.Rules{Age: 24 * time.Hour}
	s := start(t, cfg)
	old := s.finish(s.put("app/ctx", "FROM old"))
	newest := s.finish(s.put("app/ctx", "FROM newest"))
	lone := s.finish(s.put("lone/ctx", "FROM lone"))
	running := s.put("run/ctx", "# wait "+gate)
	s.await(running, func(b api.Build) bool { return b.State == api.StateRunning })
	queued := s.put("queue/ctx", "# wait "+gate)
	superseded := s.put("queue/ctx", "# wait "+gate)
	s.finish(queued) // cancelled by the next
	files := func() int {
		all, err := filepath.Glob(filepath.Join(cfg.Dir, "bucket", "objects", "contexts", "*", "*", "*.data"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if err := s.Retain(t.Context()); err != nil || files() != 6 {
		t.Fatalf("before it is time: %v, %d contexts", err, files())
	}
	if err := s.Retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	ahead = 48 * time.Hour
	for range 2 {
		if err := s.Retain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for id, stays := range map[string]bool{old.ID: false, queued: false, newest.ID: true, lone.ID: true, running: true, superseded: true} {
		status, _ := s.do("GET", "/api/builds/"+id, nil)
		_, err := os.Stat(filepath.Join(cfg.Dir, "builds", id))
		if (status == 200) != stays || (err == nil) != stays {
			t.Errorf("build %s: %d, %v; stays %v", id, status, err, stays)
		}
	}
	if n := files(); n != 4 {
		t.Errorf("%d contexts", n)
	}
	if _, list := s.do("GET", "/api/builds", nil); strings.Contains(list, old.ID) || !strings.Contains(list, newest.ID) {
		t.Errorf("list %s", list)
	}
	// A redelivery of what is kept as the newest builds nothing.
	e, err := events.SourceChangedEvent("x", "y", newest.Request.Change)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if _, body := s.do("POST", "/events/in", data, "Content-Type", "application/cloudevents+json"); !strings.Contains(body, `"duplicate"`) || !strings.Contains(body, newest.ID) {
		t.Errorf("redelivery: %s", body)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{running, superseded} {
		if b := s.finish(id); b.Result.Outcome != events.OutcomeSuccess {
			t.Errorf("%+v", b.Result)
		}
	}
}

// A stack that starts at another address builds again there what was to go to
// the old one, and loses nothing.
func TestMovedStack(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "go")
	cfg := config(t, t.TempDir())
	cfg.Parallel = 1
	s := start(t, cfg)
	before := s.Registry()
	done := s.finish(s.put("done/ctx", "FROM done"))
	running := s.put("run/ctx", "# wait "+gate)
	s.await(running, func(b api.Build) bool { return b.State == api.StateRunning })
	waiting := s.put("wait/ctx", "FROM wait")
	s.stop()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.ListenS3 = port.Free(t), "127.0.0.1:0"
	s = start(t, cfg)
	if s.Registry() == before {
		t.Fatal("it did not move")
	}
	for _, id := range []string{running, waiting} {
		b := s.finish(id)
		if b.Result.Outcome != events.OutcomeCancelled || !strings.Contains(b.Result.Reason+b.Result.Message, "superseded by") && !strings.Contains(b.Result.Reason, s.Registry()) {
			t.Errorf("the build for the old address: %+v", b.Result)
		}
		var l api.List
		_, body := s.do("GET", "/api/builds?name="+b.Request.Change.Name+"&state=finished", nil)
		for range 500 {
			if _, body = s.do("GET", "/api/builds?name="+b.Request.Change.Name, nil); strings.Count(body, `"state":"finished"`) == 2 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err := json.Unmarshal([]byte(body), &l); err != nil || len(l.Builds) != 2 {
			t.Fatalf("%v %s", err, body)
		}
		again := l.Builds[0]
		if again.ID == id || again.Result == nil || again.Result.Outcome != events.OutcomeSuccess || !strings.HasPrefix(again.Request.Image, s.Registry()+"/") {
			t.Errorf("the build for the new address: %+v", again)
		}
	}
	if b := s.build(done.ID); b.Result.Digest != done.Result.Digest {
		t.Errorf("%+v", b)
	}
	if _, all := s.do("GET", "/api/events?type="+events.TypeBuildFinished, nil); strings.Count(all, ".finished\"") < 5 {
		t.Errorf("events: %s", all)
	}
}
