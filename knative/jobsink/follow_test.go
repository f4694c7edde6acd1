package jobsink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/knative/launch"
)

// TestJobName proves that the names are those of Knative Eventing 1.20, whose own
// function made them.
func TestJobName(t *testing.T) {
	req := events.Request{Install: "i", Tenant: "acme", BuildID: "b4fqlqs6nuner3bfunf5738b7r"}
	for sink, want := range map[string]string{
		"kiln": "kiln-edc4af2abdfe539c112cf96d995cecfc",
		"a-sink-with-a-name-of-more-than-thirty-one": "a-sink-with-a-name-of-more-thane5c3bd3c717da87985135da02a8f53b6",
	} {
		if got := (Sink{Name: sink}).JobName(req, 1); got != want {
			t.Errorf("%s: %s, want %s", sink, got, want)
		}
	}
	s := Sink{Name: "kiln"}
	if got, want := s.Selector(req, 2), fmt.Sprintf("batch.kubernetes.io/job-name in (%s,%s)", s.JobName(req, 1), s.JobName(req, 2)); got != want || s.JobName(req, 1) == s.JobName(req, 2) {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestParseURL(t *testing.T) {
	for address, want := range map[string]Sink{
		"http://job-sink.knative-eventing.svc.cluster.local/kiln-builds/kiln": {"kiln-builds", "kiln"},
		"https://sink:8443/ns/name/":                                          {"ns", "name"},
		"http://sink/ns":                                                      {},
		"http://sink/ns/name/more":                                            {},
		"http://sink//name":                                                   {},
		"http://[":                                                            {},
	} {
		if got, err := ParseURL(address); got != want || (err == nil) != (want != Sink{}) {
			t.Errorf("%s: %+v, %v", address, got, err)
		}
	}
}

// logs notes what it is told.
type logs struct {
	mu          sync.Mutex
	began, ends []string
	told        chan struct{}
}

func (l *logs) Began(req events.Request) { l.note(&l.began, req.BuildID) }

func (l *logs) Ended(_ context.Context, req events.Request) error {
	l.note(&l.ends, req.BuildID)
	return nil
}

func (l *logs) note(list *[]string, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(*list, id) {
		*list = append(*list, id)
		slices.Sort(*list)
	}
	select {
	case l.told <- struct{}{}:
	default:
	}
}

// await waits until exactly these builds began and ended.
func (l *logs) await(t *testing.T, began, ends []string) {
	t.Helper()
	slices.Sort(began)
	slices.Sort(ends)
	deadline := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		b, e := slices.Clone(l.began), slices.Clone(l.ends)
		l.mu.Unlock()
		if slices.Equal(b, began) && slices.Equal(e, ends) {
			return
		}
		select {
		case <-l.told:
		case <-deadline:
			t.Fatalf("began %v, ended %v; want %v, %v", b, e, began, ends)
		}
	}
}

var ours = Sink{Namespace: "builds", Name: "kiln"}

// world is a cluster and a ledger.
type world struct {
	client *fake.Clientset
	ledger *ledger.Mem
}

func newWorld() *world { return &world{fake.NewClientset(), &ledger.Mem{}} }

// follow starts a Follower, as of a dispatcher that begins to lead.
func (w *world) follow(t *testing.T) (l *logs, stop func()) {
	t.Helper()
	l = &logs{told: make(chan struct{}, 1)}
	f, err := NewFollower(FollowerConfig{
		Client: w.client, Sink: ours, Attempts: 3, Ledger: w.ledger, Logs: l, Reach: 210 * time.Minute, Resync: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	// The fake loses what happens between a list and the watch after it.
	watched := make(chan struct{}, 2)
	w.client.PrependWatchReactor("pods", func(a k8stesting.Action) (bool, watch.Interface, error) {
		i, err := w.client.Tracker().Watch(a.GetResource(), a.GetNamespace())
		watched <- struct{}{}
		return true, i, err
	})
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	over := errors.New("the test is over")
	go func() { done <- f.Run(ctx) }()
	<-watched
	stop = sync.OnceFunc(func() {
		cancel(over)
		if err := <-done; !errors.Is(err, over) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l, stop
}

func (w *world) put(t *testing.T, key string, v any) {
	t.Helper()
	data, err := record.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.ledger.Create(t.Context(), key, data); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
}

// asked records a build that a dispatcher has asked for.
func (w *world) asked(t *testing.T, name string, at time.Time, platforms ...string) events.Request {
	t.Helper()
	req := request()
	req.Change.Name, req.RequestedAt, req.Platforms = name, at, platforms
	req.BuildID = req.DeriveBuildID()
	w.put(t, record.OpenKey(req), record.Open{Request: req})
	w.put(t, record.RequestKey(req.BuildID), req)
	w.put(t, record.IndexKey(req), req.BuildID)
	return req
}

// ended records the outcome of a build.
func (w *world) ended(t *testing.T, req events.Request) {
	t.Helper()
	w.put(t, record.ResultKey(req.BuildID), record.Claim{})
	if req.PartOf != "" {
		return
	}
	if err := w.ledger.Delete(t.Context(), record.OpenKey(req)); err != nil {
		t.Fatal(err)
	}
}

// pod makes a pod, or sets what its executor does.
func (w *world) pod(t *testing.T, name, job string, at time.Time, state corev1.ContainerState, labels ...string) {
	t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: ours.Namespace, CreationTimestamp: metav1.NewTime(at), Labels: map[string]string{labelJob: job},
		},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: launch.Container, State: state}}},
	}
	for _, l := range labels {
		p.Labels[l] = "x"
	}
	pods := w.client.CoreV1().Pods(ours.Namespace)
	_, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		_, err = pods.Update(t.Context(), p, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

var (
	waits = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
	runs  = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Unix(1, 0)}}
	over  = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{StartedAt: metav1.Unix(1, 0), FinishedAt: metav1.Unix(2, 0)}}
)

// TestFollow proves that the log of every executor of the JobSink is cared for when it
// begins and when its build has ended, of each platform and each attempt, and that of
// nobody else's pods.
func TestFollow(t *testing.T) {
	w := newWorld()
	now := time.Unix(1795400000, 0).UTC()
	l, _ := w.follow(t)
	one := w.asked(t, "one", now)
	w.pod(t, "one-1", ours.JobName(one, 1), now, waits)
	w.pod(t, "other", "other-job", now, runs)
	w.pod(t, "foreign", "kiln-ffffffffffffffffffffffffffffffff", now, runs)
	two := w.asked(t, "two", now, "linux/amd64", "linux/arm64")
	parts := two.Parts()
	for _, part := range parts {
		w.pod(t, "two-"+part.BuildID, ours.JobName(part, 1), now, runs)
	}
	l.await(t, []string{parts[0].BuildID, parts[1].BuildID}, nil)
	w.pod(t, "one-1", ours.JobName(one, 1), now, runs)
	l.await(t, []string{one.BuildID, parts[0].BuildID, parts[1].BuildID}, nil)
	// The first attempt is lost; its outcome is not known before the second has ended.
	w.pod(t, "one-1", ours.JobName(one, 1), now, over)
	w.pod(t, "one-2", ours.JobName(one, 2), now, runs)
	w.ended(t, parts[0])
	w.pod(t, "two-"+parts[0].BuildID, ours.JobName(parts[0], 1), now, over)
	l.await(t, []string{one.BuildID, parts[0].BuildID, parts[1].BuildID}, []string{parts[0].BuildID})
	w.ended(t, one)
	w.pod(t, "one-2", ours.JobName(one, 2), now, over)
	l.await(t, []string{one.BuildID, parts[0].BuildID, parts[1].BuildID}, []string{one.BuildID, parts[0].BuildID})
}

// TestFollowLater proves that a dispatcher which begins to lead finds builds that have
// ended, by the list of all, and looks no further back in it than it must.
func TestFollowLater(t *testing.T) {
	w := newWorld()
	now := time.Unix(1795400000, 0).UTC()
	ended := w.asked(t, "ended", now.Add(-100*time.Minute))
	third := w.asked(t, "third", now.Add(-210*time.Minute))
	running := w.asked(t, "running", now)
	for i := range 600 { // more than a page
		w.ended(t, w.asked(t, fmt.Sprint("other ", i), now.Add(-time.Duration(i)*time.Second)))
	}
	old := w.asked(t, "old", now.Add(-220*time.Minute))
	for _, req := range []events.Request{ended, third, old} {
		w.ended(t, req)
	}
	w.pod(t, "ended", ours.JobName(ended, 1), now, over)
	w.pod(t, "third", ours.JobName(third, 3), now, over)
	w.pod(t, "running", ours.JobName(running, 1), now, runs)
	w.pod(t, "foreign", "kiln-ffffffffffffffffffffffffffffffff", now, over)
	w.pod(t, "of the launcher of Jobs", launch.JobName(old.BuildID), now.Add(-24*time.Hour), over, launch.LabelBuild)
	store := &counting{Mem: w.ledger}
	first, stop := w.follow(t)
	first.await(t, []string{running.BuildID}, []string{ended.BuildID, third.BuildID})
	stop()
	w.ended(t, running)
	w.pod(t, "running", ours.JobName(running, 1), now, over)
	l := &logs{told: make(chan struct{}, 1)}
	f, err := NewFollower(FollowerConfig{Client: w.client, Sink: ours, Attempts: 3, Ledger: store, Logs: l, Reach: 210 * time.Minute, Resync: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := f.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	l.await(t, nil, []string{ended.BuildID, third.BuildID, running.BuildID})
	store.mu.Lock()
	defer store.mu.Unlock()
	if store.requests[old.BuildID] != 0 {
		t.Error("it looked for builds that are too old")
	}
	for id, n := range store.requests {
		if n != 1 {
			t.Errorf("build %s was read %d times", id, n)
		}
	}
	if len(store.requests) != 603 {
		t.Errorf("%d builds were read", len(store.requests))
	}
}

// counting counts how often requests are read.
type counting struct {
	*ledger.Mem
	mu       sync.Mutex
	requests map[string]int
}

func (c *counting) Get(ctx context.Context, key string) ([]byte, string, error) {
	if id, ok := strings.CutSuffix(strings.TrimPrefix(key, record.BuildsPrefix), "/request.json"); ok {
		c.mu.Lock()
		if c.requests == nil {
			c.requests = map[string]int{}
		}
		c.requests[id]++
		c.mu.Unlock()
	}
	return c.Mem.Get(ctx, key)
}
