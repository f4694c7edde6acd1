package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/dispatch"
)

// world is a cluster without a kubelet, and what the Launcher announced.
type world struct {
	client *fake.Clientset
	l      *Launcher

	mu       sync.Mutex
	now      time.Time
	started  []string
	finished map[string]events.Result
	failures int  // how often Finish still fails
	away     bool // nobody can be told that a build started
	logs     []string
	told     chan struct{}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{client: fake.NewClientset(), now: time.Now(), finished: map[string]events.Result{}, told: make(chan struct{}, 100)}
	// A real API server stamps what it makes.
	w.client.PrependReactor("create", "jobs", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if job, ok := a.(k8stesting.CreateAction).GetObject().(*batchv1.Job); ok {
			job.CreationTimestamp = metav1.NewTime(w.clock())
		}
		return false, nil, nil
	})
	var err error
	w.l, err = New(Config{
		Client: w.client, Namespace: "builds", Template: Template{Image: "executor"},
		Finish: w.finish, Started: w.start, Logs: w, Now: w.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	// The fake loses what happens between a list and the watch after it.
	watched := make(chan struct{}, 2)
	w.client.PrependWatchReactor("*", func(a k8stesting.Action) (bool, watch.Interface, error) {
		i, err := w.client.Tracker().Watch(a.GetResource(), a.GetNamespace())
		watched <- struct{}{}
		return true, i, err
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.l.Run(ctx) }()
	<-watched
	<-watched
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) start(_ context.Context, req events.Request, at time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return errors.New("the sink is away")
	}
	w.started = append(w.started, fmt.Sprint(req.BuildID, " ", at.Unix()))
	return nil
}

// Began implements Logs.
func (w *world) Began(req events.Request) { w.log("began " + req.BuildID) }

// Ended implements Logs.
func (w *world) Ended(_ context.Context, req events.Request) error {
	w.log("ended " + req.BuildID)
	return nil
}

func (w *world) log(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.logs, what) { // it may be said again
		w.logs = append(w.logs, what)
	}
}

func (w *world) finish(_ context.Context, id string, res events.Result) (events.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failures > 0 {
		w.failures--
		return events.Result{}, errors.New("the ledger is away")
	}
	if _, ok := w.finished[id]; !ok {
		w.finished[id] = res
	}
	w.told <- struct{}{}
	return w.finished[id], nil
}

// await waits for the outcome of the build.
func (w *world) await(t *testing.T) events.Result {
	t.Helper()
	select {
	case <-w.told:
	case <-time.After(30 * time.Second):
		t.Fatal("the build was not finished")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.finished[buildID]
}

// put makes or replaces the build's pod.
func (w *world) put(t *testing.T, p *corev1.Pod) {
	t.Helper()
	p.Namespace, p.Labels = "builds", map[string]string{LabelBuild: buildID}
	pods := w.client.CoreV1().Pods("builds")
	if _, err := pods.Create(t.Context(), p, metav1.CreateOptions{}); err == nil {
		return
	} else if !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	if _, err := pods.Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestLaunchTwiceIsOnce proves that a build has one Job however often it is launched.
func TestLaunchTwiceIsOnce(t *testing.T) {
	w := newWorld(t)
	if err := w.l.Launch(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	if err := w.l.Launch(t.Context(), request()); !errors.Is(err, dispatch.ErrExists) {
		t.Errorf("second launch: %v", err)
	}
	if s, err := w.l.State(t.Context(), buildID); s != dispatch.StatePending || err != nil {
		t.Errorf("state %q, %v", s, err)
	}
	if err := errors.Join(w.l.Cancel(t.Context(), buildID), w.l.Cancel(t.Context(), buildID)); err != nil {
		t.Errorf("cancel twice: %v", err)
	}
	if s, err := w.l.State(t.Context(), buildID); s != dispatch.StateNone || err != nil {
		t.Errorf("state %q, %v", s, err)
	}
}

// TestQuota proves that a full namespace is told from a broken one.
func TestQuota(t *testing.T) {
	w := newWorld(t)
	refuse := apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, "x", errors.New("exceeded quota: builds"))
	w.client.PrependReactor("create", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, refuse })
	if err := w.l.Launch(t.Context(), request()); !errors.Is(err, dispatch.ErrQuota) {
		t.Errorf("full namespace: %v", err)
	}
	refuse = apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, "x", errors.New("no rights"))
	if err := w.l.Launch(t.Context(), request()); err == nil || errors.Is(err, dispatch.ErrQuota) {
		t.Errorf("no rights: %v", err)
	}
}

// TestRunFinishes proves that a pod's end is the build's, also when the ledger
// is away for a while, and that the start is announced once.
func TestRunFinishes(t *testing.T) {
	w := newWorld(t)
	w.failures = 2
	if err := w.l.Launch(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	w.put(t, running(1))
	w.put(t, pod(1, 0, "Completed", `{"outcome":"success","digest":"`+digest+`"}`))
	if res := w.await(t); res.Outcome != events.OutcomeSuccess || res.Digest != digest {
		t.Errorf("finished with %+v", res)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.started) != 1 || w.started[0] != buildID+" 100" {
		t.Errorf("started %v", w.started)
	}
}

// TestRunUntold proves that a build of whose start nobody can be told comes to its end.
func TestRunUntold(t *testing.T) {
	w := newWorld(t)
	w.away = true
	if err := w.l.Launch(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	w.put(t, running(1))
	w.put(t, pod(1, 0, "Completed", `{"outcome":"success","digest":"`+digest+`"}`))
	if res := w.await(t); res.Outcome != events.OutcomeSuccess || len(w.starts()) != 0 {
		t.Errorf("finished with %+v after the starts %v", res, w.starts())
	}
}

// TestRunDeleted proves that a Job that somebody deletes is a cancelled build.
func TestRunDeleted(t *testing.T) {
	w := newWorld(t)
	if err := w.l.Launch(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	w.put(t, running(1))
	for len(w.starts()) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if err := w.l.Cancel(t.Context(), buildID); err != nil {
		t.Fatal(err)
	}
	if res := w.await(t); res.Outcome != events.OutcomeCancelled || res.Class != events.ClassDeleted {
		t.Errorf("finished with %+v", res)
	}
}

func (w *world) starts() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.started
}

// TestRunGivesUp proves that a build whose image cannot be pulled ends with the
// kubelet's reason, and its Job with it.
func TestRunGivesUp(t *testing.T) {
	w := newWorld(t)
	if err := w.l.Launch(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	p := running(1)
	p.Status.Phase = corev1.PodPending
	p.Status.ContainerStatuses[0].State = corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"},
	}
	w.mu.Lock()
	w.now = w.now.Add(time.Hour)
	w.mu.Unlock()
	w.put(t, p)
	res := w.await(t)
	if res.Class != events.ClassInfraStart || res.Message != "the executor did not start within 10m0s: ImagePullBackOff: no such image" {
		t.Errorf("finished with %+v", res)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if s, err := w.l.State(t.Context(), buildID); err == nil && s == dispatch.StateNone {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the Job goes on")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestRunForgetsUnknown proves that a Job of a build that nobody requested is
// left alone, not tried for ever.
func TestRunForgetsUnknown(t *testing.T) {
	w := newWorld(t)
	var calls int
	done := make(chan struct{}, 10)
	w.l.cfg.Finish = func(context.Context, string, events.Result) (events.Result, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		calls++
		done <- struct{}{}
		return events.Result{}, fs.ErrNotExist
	}
	if err := w.l.Launch(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	w.put(t, pod(1, 0, "Completed", ""))
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody looked")
	}
	time.Sleep(500 * time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	if calls != 1 {
		t.Errorf("finished %d times", calls)
	}
}

// TestLogs proves that a log is kept from when its executor runs, that its end is told
// after the outcome, and that of a build which had ended before somebody led anew
// nothing is followed, while its log is still asked for once. Load counts meanwhile.
func TestLogs(t *testing.T) {
	w := newWorld(t)
	load := func(queued, running int) {
		t.Helper()
		for range 1000 {
			if q, r := w.l.Load(); q == queued && r == running {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		q, r := w.l.Load()
		t.Errorf("%d wait and %d run, want %d and %d", q, r, queued, running)
	}
	load(0, 0)
	if err := w.l.Launch(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	load(1, 0)
	glance := func(want dispatch.State) {
		t.Helper()
		if got, err := w.l.Glance(t.Context(), buildID); got != want || err != nil {
			t.Errorf("state %q, %v, want %q", got, err, want)
		}
	}
	glance(dispatch.StatePending)
	jobs := w.client.BatchV1().Jobs("builds")
	job, err := jobs.Get(t.Context(), JobName(buildID), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	job.Status.Ready = ptr(int32(1))
	if job, err = jobs.Update(t.Context(), job, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	load(0, 1)
	w.put(t, running(1))
	glance(dispatch.StateRunning)
	for len(w.starts()) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	w.put(t, pod(1, 0, "Completed", `{"outcome":"success","digest":"`+digest+`"}`))
	w.await(t)
	job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	if _, err := jobs.Update(t.Context(), job, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	load(0, 0)
	heard := func(want ...string) {
		t.Helper()
		for range 1000 {
			w.mu.Lock()
			got := slices.Clone(w.logs)
			w.mu.Unlock()
			if slices.Equal(got, want) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%q, want %q", w.logs, want)
	}
	heard("began "+buildID, "ended "+buildID)

	w.mu.Lock()
	w.logs = nil
	w.mu.Unlock()
	next, err := New(w.l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- next.Run(ctx) }()
	heard("ended " + buildID)
	if got, err := next.Glance(t.Context(), "0123456789"); got != dispatch.StateNone || err != nil {
		t.Errorf("a build that nobody knows: %q, %v", got, err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
}

func TestLastWords(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"panic: x\n\ngoroutine": "panic: x\ngoroutine",
		`{"kind":"output","text":"one"}` + "\n" + `{"kind":"step","state":"done"}` + "\n" + `{"kind":"result","error":"two"}`: "one\ntwo",
		`ext":"cut off"}` + "\n" + `{"a":1}`: `ext":"cut off"}` + "\n" + `{"a":1}`,
	} {
		if got := lastWords(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
