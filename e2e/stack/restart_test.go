package stack

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kilnhook/kiln/e2e/internal/stackd"
)

// A stack that is killed and started again has every build, event, tag and log
// it had, and ends the build it was at, once.
func TestRestartLosesNothing(t *testing.T) {
	s := start(t)
	good := tarball(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN echo marker-in-the-log > /x; cat /x\n"})
	if status, body := s.upload(t, "kept.tar.gz", good); status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	sub := s.subscribe(t)
	first := sub.wait(t, 1)
	s.success(t, first)
	seen := slices.Clone(sub.raw)

	slow := tarball(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN sleep 4; echo done > /slow\n"})
	if status, body := s.upload(t, "slow.tar.gz", slow); status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	stackd.Until(t, "the second build runs", func() bool { return len(executors(t, s)) > 0 })
	s.Stop(t, syscall.SIGKILL)
	stackd.Until(t, "its executors are gone", func() bool { return len(executors(t, s)) == 0 })
	s.Run(t)

	again := s.subscribe(t)
	second := again.wait(t, 2)
	if second.Outcome != "success" {
		t.Errorf("the build that was under way ended as %+v", second)
	}
	for i, raw := range seen {
		if i >= len(again.raw) || again.raw[i] != raw {
			t.Fatalf("event %d is not what it was", i)
		}
	}
	ids := map[string]int{}
	for _, e := range again.finished() {
		ids[e.ID]++
	}
	if len(ids) != 2 {
		t.Errorf("the finished events are %v", ids)
	}
	for _, ref := range []string{first.Subject, first.Data.Image.Repository + ":latest"} {
		d, err := pull(t, ref).Digest()
		check(t, err)
		if d.String() != first.ImageDigest {
			t.Errorf("%s is %s now", ref, d)
		}
	}
	list, err := s.command(t, "builds")
	check(t, err)
	for _, e := range again.finished() {
		if !strings.Contains(list, e.Data.Build.ID[:10]) {
			t.Errorf("kiln builds does not list %s:\n%s", e.Data.Build.ID, list)
		}
	}
	log, err := s.command(t, "logs", first.Data.Build.ID)
	check(t, err)
	if !strings.Contains(log, "marker-in-the-log") {
		t.Errorf("the log of the first build is\n%s", log)
	}
}

// Cancel ends a running build with one event, and its processes with it.
func TestCancel(t *testing.T) {
	s := start(t)
	sub := s.subscribe(t)
	slow := tarball(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN sleep 600\n"})
	status, body := s.upload(t, "slow.tar.gz", slow)
	if status/100 != 2 {
		t.Fatalf("%d %s", status, body)
	}
	stackd.Until(t, "the RUN is running", func() bool { return sleeping(t, s.Data) })
	list, err := s.command(t, "builds", "--output", "json")
	check(t, err)
	_, rest, _ := strings.Cut(list, `"id":"`)
	if rest == "" {
		_, rest, _ = strings.Cut(list, `"id": "`)
	}
	id, _, _ := strings.Cut(rest, `"`)
	if _, err := s.command(t, "cancel", id); err != nil {
		t.Fatalf("cancel %q: %v", id, err)
	}
	if e := sub.wait(t, 1); e.Outcome != "cancelled" {
		t.Errorf("the event says %+v", e)
	}
	stackd.Until(t, "the RUN is gone", func() bool { return !sleeping(t, s.Data) })
}
