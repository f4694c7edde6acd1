package podlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kilnhook/kiln/events"
)

const step = `{"time":"2026-01-01T00:00:00Z","kind":"output","id":"1","text":"%s"}`

func said(text string) string { return fmt.Sprintf(step, text) }

// TestLogIsFollowedAndKept proves that a log is served while its executor runs, as it
// comes, and is in the ledger when the build has ended, where it outlives the pod.
func TestLogIsFollowedAndKept(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, nil)
	req := c.request(t, "a")
	pod := c.start("a-1", req.BuildID)
	c.says(pod, said("one"), "panic: something else", said("two"))
	k.Began(req)
	seen := make(chan string, 10)
	followed := make(chan error, 1)
	go func() {
		_, err := k.Log(t.Context(), req.BuildID, 0, true, func(p []byte) error {
			for _, text := range texts(t, string(p)) {
				seen <- text
			}
			return nil
		})
		followed <- err
	}()
	for _, want := range []string{"one", "panic: something else", "two"} {
		if got := <-seen; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	c.says(pod, said("three"))
	if got := <-seen; got != "three" {
		t.Errorf("%q, want three", got)
	}
	c.ends(pod)
	if err := k.Ended(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if err := <-followed; err != nil {
		t.Error(err)
	}
	log := c.kept(t, req.BuildID)
	if got := texts(t, log); !slices.Equal(got, []string{"one", "panic: something else", "two", "three"}) {
		t.Errorf("kept: %q", got)
	}
	if !strings.Contains(log, `{"time":"2023-11-14T22:13:20Z","kind":"note","text":"panic: something else"}`) {
		t.Errorf("what is no progress is no note of its time: %s", log)
	}
	c.delete(pod)
	other := c.keeper(t, nil)
	for offset := 0; offset < len(log); offset = offset + strings.IndexByte(log[offset:], '\n') + 1 {
		if got, err := all(t, other, req.BuildID, int64(offset), true); got != log[offset:] || err != nil {
			t.Errorf("from %d: %q, %v", offset, got, err)
		}
	}
}

// TestLeaderChanges proves that a dispatcher that leads anew, while an executor runs or
// after it has ended, keeps the whole log, and that two at once keep the same.
func TestLeaderChanges(t *testing.T) {
	c := newCluster(t)
	first := c.keeper(t, nil)
	req := c.request(t, "a")
	pod := c.start("a-1", req.BuildID)
	c.says(pod, said("one"), said("two"))
	first.Began(req)
	if got, err := all(t, first, req.BuildID, 0, false); err != nil {
		t.Error(got, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	c.says(pod, said("three"))
	second := c.keeper(t, nil)
	second.Began(req)
	c.says(pod, said("four"))
	c.ends(pod)
	if err := second.Close(); err != nil { // before it was told of the end
		t.Fatal(err)
	}
	third, fourth := c.keeper(t, nil), c.keeper(t, nil)
	for _, k := range []*Keeper{third, fourth} {
		if err := k.Ended(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	log := c.kept(t, req.BuildID)
	if got := texts(t, log); !slices.Equal(got, []string{"one", "two", "three", "four"}) {
		t.Errorf("kept: %q", got)
	}
	for _, k := range []*Keeper{third, fourth} {
		if got, err := all(t, k, req.BuildID, 0, true); got != log || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	// One that leads later asks for no log that is there.
	before := len(c.asked)
	fifth := c.keeper(t, nil)
	if err := fifth.Ended(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if len(fifth.tapes) != 0 || len(c.asked) != before {
		t.Errorf("%d tapes, %q", len(fifth.tapes), c.asked[before:])
	}
}

// TestInterruptions proves that what breaks off goes on where it was, without a line
// lost or doubled, also of several in one instant.
func TestInterruptions(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, nil)
	req := c.request(t, "a")
	pod := c.start("a-1", req.BuildID)
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprint("line ", i))
		c.says(pod, said(want[i]))
	}
	c.change(func() { c.broken, c.refused = 3, 1 })
	k.Began(req)
	c.ends(pod)
	if err := k.Ended(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, c.kept(t, req.BuildID)); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if !slices.ContainsFunc(c.asked, func(q string) bool { return strings.Contains(q, "sinceTime=2023-11-14T22%3A13%3A20Z") }) {
		t.Errorf("it always began anew: %q", c.asked)
	}
}

// TestAttempts proves that the log of a build that was tried again is that of all its
// executors, one after the other.
func TestAttempts(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, nil)
	req := c.request(t, "a")
	first := c.start("a-1", req.BuildID)
	c.says(first, said("one"))
	c.ends(first)
	k.Began(req)
	second := c.start("a-2", req.BuildID)
	c.says(second, said("two"))
	c.ends(second)
	if err := k.Ended(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, c.kept(t, req.BuildID)); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("%q", got)
	}
}

// TestLost proves that the place of a log that could not be read says so: of a pod that
// was deleted, of one that never started, of one whose node does not answer.
func TestLost(t *testing.T) {
	for name, tc := range map[string]struct {
		happens func(c *cluster, p *fakePod)
		want    []string
	}{
		"deleted": {func(c *cluster, p *fakePod) { c.delete(p) }, []string{noLog}},
		"never started": {func(c *cluster, p *fakePod) {
			c.change(func() {
				p.state = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}
			})
		}, []string{noLog}},
		"refused for good": {func(c *cluster, p *fakePod) {
			c.ends(p)
			c.change(func() { c.refused = 1000 })
		}, []string{"the log of pod a-1 is not whole: read log of pod a-1: an error on the server (\"the kubelet is away\") has prevented the request from succeeding (get pods a-1)"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			k := c.keeper(t, nil)
			req := c.request(t, "a")
			pod := c.start("a-1", req.BuildID)
			tc.happens(c, pod)
			if err := k.Ended(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			if got := texts(t, c.kept(t, req.BuildID)); !slices.Equal(got, tc.want) {
				t.Errorf("%q", got)
			}
		})
	}
}

// TestDeletedMeanwhile proves that of a pod which is deleted while its log is followed
// what was read is kept, and that a gap is named.
func TestDeletedMeanwhile(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, nil)
	req := c.request(t, "a")
	pod := c.start("a-1", req.BuildID)
	c.says(pod, said("one"), said("two"))
	c.change(func() { c.broken = 1 })
	k.Began(req)
	enough := errors.New("enough")
	if _, err := k.Log(t.Context(), req.BuildID, 0, true, func([]byte) error { return enough }); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	c.delete(pod)
	if err := k.Ended(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	got := texts(t, c.kept(t, req.BuildID))
	if len(got) == 0 || got[0] != "one" || got[len(got)-1] != "the log of pod a-1 is not whole: it was deleted before all was read" {
		t.Errorf("%q", got)
	}
}

// TestDeletedAfterwards proves that nothing is said to be missing of a pod that goes as
// soon as its log has ended, as that of a cancelled build does.
func TestDeletedAfterwards(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, nil)
	req := c.request(t, "a")
	pod := c.start("a-1", req.BuildID)
	c.says(pod, said("one"), said("two"))
	k.Began(req)
	enough := errors.New("enough")
	if _, err := k.Log(t.Context(), req.BuildID, 0, true, func([]byte) error { return enough }); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	c.change(func() { c.vanish = true })
	c.ends(pod)
	if err := k.Ended(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, c.kept(t, req.BuildID)); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("%q", got)
	}
}

// TestNoLog proves what is said of builds without an executor: nothing as long as one
// may come, and in the end that there is no log.
func TestNoLog(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, nil)
	req := c.request(t, "a")
	if got, err := all(t, k, req.BuildID, 0, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := all(t, k, "0123456789abcdefghijklmnop", 0, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q, %v", got, err)
	}
	c.result(t, req.BuildID, 0)
	if got, err := all(t, k, req.BuildID, 0, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log that may be on its way: %q, %v", got, err)
	}
	old := c.request(t, "old")
	c.result(t, old.BuildID, time.Hour)
	log, err := all(t, k, old.BuildID, 0, true)
	if err != nil || !slices.Equal(texts(t, log), []string{noLog}) {
		t.Errorf("%q, %v", log, err)
	}
	if got, err := all(t, k, old.BuildID, int64(len(log)), false); got != "" || err != nil {
		t.Errorf("after its end: %q, %v", got, err)
	}
}

// TestLimits proves that of a log no more than so much is kept, that it says so once,
// that the steps stay, and that a line has an end.
func TestLimits(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, func(cfg *Config) { cfg.MaxLog = 1 << 20 })
	req := c.request(t, "a")
	pod := c.start("a-1", req.BuildID)
	c.says(pod, strings.Repeat("x", maxLine+100))
	for range 30 {
		c.says(pod, said(strings.Repeat("y", 50<<10)))
	}
	done := `{"time":"2026-01-01T00:00:00Z","kind":"step","id":"1","state":"done"}`
	c.says(pod, done)
	c.ends(pod)
	k.Began(req)
	if err := k.Ended(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	log := c.kept(t, req.BuildID)
	if len(log) > 1<<20+100<<10 || strings.Count(log, "the log is longer than 1 MiB; further output is left out") != 1 || !strings.HasSuffix(log, done+"\n") {
		t.Errorf("%d bytes, ends with %s", len(log), log[len(log)-300:])
	}
	if first := texts(t, log)[0]; len(first) > maxLine || len(first) < maxLine-100 {
		t.Errorf("the long line is %d bytes", len(first))
	}
}

// TestPlatforms proves that a build for several platforms has the log of each, marked,
// one after the other, from any byte on.
func TestPlatforms(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, nil)
	req := c.request(t, "a", "linux/amd64", "linux/arm64")
	for _, part := range req.Parts() {
		pod := c.start(part.Platform[6:], part.BuildID)
		c.says(pod, said("here"), `{"time":"2026-01-01T00:00:00Z","kind":"result","text":"sha256:0"}`)
		k.Began(part)
		c.ends(pod)
		if err := k.Ended(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	want := ""
	for _, part := range req.Parts() {
		want += c.kept(t, part.BuildID)
	}
	if got := texts(t, want); !slices.Equal(got, []string{"here", "linux/amd64: sha256:0", "here", "linux/arm64: sha256:0"}) || strings.Contains(want, `"result"`) {
		t.Errorf("%s", want)
	}
	for offset := 0; offset < len(want); offset = offset + strings.IndexByte(want[offset:], '\n') + 1 {
		if got, err := all(t, k, req.BuildID, int64(offset), true); got != want[offset:] || err != nil {
			t.Errorf("from %d: %q, %v", offset, got, err)
		}
	}
}

// TestMoreThanAreFollowed proves that logs which are not followed, since others are,
// are read when their executors end, and before that when somebody reads them.
func TestMoreThanAreFollowed(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, func(cfg *Config) { cfg.Follow = 1 })
	first, second := c.request(t, "a"), c.request(t, "b")
	one := c.start("a-1", first.BuildID)
	c.says(one, said("one"))
	k.Began(first)
	if got, err := all(t, k, first.BuildID, 0, false); err != nil {
		t.Fatal(got, err)
	}
	two := c.start("b-1", second.BuildID)
	c.says(two, said("two"))
	k.Began(second)
	third := c.request(t, "c")
	three := c.start("c-1", third.BuildID)
	c.says(three, said("three"))
	k.Began(third)
	time.Sleep(2*look + look/2) // in which it would have been followed
	if asked := c.logsAsked(); slices.ContainsFunc(asked, func(q string) bool { return !strings.HasPrefix(q, "a-1?") }) {
		t.Errorf("more are followed than may be: %q", asked)
	}
	// Whoever wants to see a log does, though it is not followed for the ledger.
	seen := errors.New("seen")
	if _, err := k.Log(t.Context(), third.BuildID, 0, true, func([]byte) error { return seen }); !errors.Is(err, seen) {
		t.Error(err)
	}
	c.ends(two)
	if err := k.Ended(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, c.kept(t, second.BuildID)); !slices.Equal(got, []string{"two"}) {
		t.Errorf("%q", got)
	}
	for _, q := range c.logsAsked() {
		if strings.HasPrefix(q, "b-1?") && strings.Contains(q, "follow=true") {
			t.Errorf("%s", q)
		}
	}
}

// TestFewRequests proves that pods of which there is nothing to read are looked at less
// and less often, and at once when there is.
func TestFewRequests(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, nil)
	req := c.request(t, "a")
	pod := c.start("a-1", req.BuildID)
	c.says(pod, said("one"))
	c.ends(pod)
	k.Began(req)
	time.Sleep(8 * look) // the next time is some seconds ahead then
	c.mu.Lock()
	lists := c.lists
	c.mu.Unlock()
	if lists < 2 || lists > 5 {
		t.Errorf("pods were listed %d times in 8 s", lists)
	}
	began := time.Now()
	if err := k.Ended(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, c.kept(t, req.BuildID)); !slices.Equal(got, []string{"one"}) {
		t.Errorf("kept: %q", got)
	}
	if took := time.Since(began); took > 5*look {
		t.Errorf("it was kept %s after the end of the build", took)
	}
}

// TestReadersGo proves that who stops reading is let go.
func TestReadersGo(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, nil)
	req := c.request(t, "a")
	c.says(c.start("a-1", req.BuildID), said("one"))
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	_, err := k.Log(ctx, req.BuildID, 0, true, func([]byte) error { cancel(gone); return nil })
	if !errors.Is(err, gone) {
		t.Error(err)
	}
	_, err = k.Log(t.Context(), req.BuildID, 0, true, func([]byte) error { return gone })
	if !errors.Is(err, gone) {
		t.Error(err)
	}
}

// TestWhoseExecutorsSayNothing proves that pods are found by whatever they are known by,
// and that the log of a part whose executor ended without a word is kept once the build
// it is a part of has its outcome.
func TestWhoseExecutorsSayNothing(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(t, func(cfg *Config) {
		cfg.Selector = func(req events.Request) string { return "job=of-" + req.BuildID }
	})
	part := c.request(t, "a", "linux/amd64", "linux/arm64").Parts()[0]
	pod := c.start("a-1", "of-"+part.BuildID)
	c.says(pod, said("one"))
	c.ends(pod)
	k.Began(part)
	got, err := "", error(nil)
	for deadline := time.Now().Add(20 * time.Second); got == "" && err == nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got, err = all(t, k, part.Whole(), 0, false)
	}
	if !strings.Contains(got, `"one"`) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	c.result(t, part.Whole(), 0)
	if got := texts(t, c.kept(t, part.BuildID)); !slices.Equal(got, []string{"one"}) {
		t.Errorf("kept: %q", got)
	}
}
