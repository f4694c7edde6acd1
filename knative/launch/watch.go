package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/kilnhook/kiln/events"
)

const (
	// workers look at builds at the same time.
	workers = 8
	// resync is how often every Job is looked at again: what a lost event left
	// undone, and what waits too long.
	resync = 30 * time.Second
)

// watcher follows the Jobs of a Launcher.
type watcher struct {
	l     *Launcher
	jobs  batchlisters.JobNamespaceLister
	pods  corelisters.PodNamespaceLister
	queue workqueue.TypedRateLimitingInterface[string] // of build ids

	mu      sync.Mutex
	deleted map[string]*batchv1.Job // Jobs that vanished and are not accounted for, by build id
	told    map[string]int64        // start of the executor that was announced last, by build id
	done    map[string]bool         // builds that are finished, as long as their Job exists
}

// Run follows the Jobs until ctx is done: it announces executors that began,
// brings builds to their end, and gives up those that do not start. Several
// processes may do so at once; it is only more work.
func (l *Launcher) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(l.cfg.Client, resync,
		informers.WithNamespace(l.cfg.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = LabelBuild }))
	jobs, pods := factory.Batch().V1().Jobs(), factory.Core().V1().Pods()
	w := &watcher{
		l: l, jobs: jobs.Lister().Jobs(l.cfg.Namespace), pods: pods.Lister().Pods(l.cfg.Namespace),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](
			200*time.Millisecond, time.Minute)),
		deleted: map[string]*batchv1.Job{}, told: map[string]int64{}, done: map[string]bool{},
	}
	if _, err := jobs.Informer().AddEventHandler(w.handler(true)); err != nil {
		return fmt.Errorf("watch Jobs: %w", err)
	}
	if _, err := pods.Informer().AddEventHandler(w.handler(false)); err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("list %v in namespace %s: %w", kind, l.cfg.Namespace, errors.Join(context.Cause(ctx), errors.New("it never ended")))
		}
	}
	l.jobs.Store(&lister{jobs: w.jobs, pods: w.pods})
	defer l.jobs.Store(nil)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { w.work(ctx) })
	}
	<-ctx.Done()
	w.queue.ShutDown()
	wg.Wait()
	return context.Cause(ctx)
}

// handler puts the build of every object that changes into the queue. isJob
// says that the objects are Jobs, whose deletion is remembered.
func (w *watcher) handler(isJob bool) cache.ResourceEventHandler {
	add := func(obj any) {
		if m, ok := obj.(metav1.Object); ok {
			w.queue.Add(m.GetLabels()[LabelBuild])
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, obj any) { add(obj) },
		DeleteFunc: func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			if job, ok := obj.(*batchv1.Job); ok && isJob {
				w.mu.Lock()
				w.deleted[job.Labels[LabelBuild]] = job
				w.mu.Unlock()
			}
			add(obj)
		},
	}
}

// work takes builds from the queue until it is shut down.
func (w *watcher) work(ctx context.Context) {
	for {
		id, closed := w.queue.Get()
		if closed {
			return
		}
		again, err := w.look(ctx, id)
		switch {
		case err != nil && ctx.Err() == nil:
			w.l.cfg.Log.Warn("follow build", "build", id, "err", err)
			w.queue.AddRateLimited(id)
		case again > 0:
			w.queue.Forget(id)
			w.queue.AddAfter(id, again)
		default:
			w.queue.Forget(id)
		}
		w.queue.Done(id)
	}
}

// look does what a build's Job and pods call for. again is when to look next
// though nothing changes; 0 is not at all.
func (w *watcher) look(ctx context.Context, id string) (again time.Duration, err error) {
	job, err := w.jobs.Get(JobName(id))
	gone := err != nil
	if gone {
		w.mu.Lock()
		job = w.deleted[id]
		w.mu.Unlock()
		if job == nil {
			return 0, nil
		}
	} else if w.isDone(id) {
		return 0, nil
	}
	pods, err := w.pods.List(labels.SelectorFromSet(labels.Set{LabelBuild: id}))
	if err != nil {
		return 0, fmt.Errorf("list pods: %w", err)
	}
	// That nobody can be told of its start keeps no build from its end: its tags are
	// moved while the sink is away.
	untold := w.tellStarted(ctx, id, job, pods)
	res, decided := outcome(job, pods)
	switch {
	case decided:
	case gone:
		res = events.Result{
			Outcome: events.OutcomeCancelled, Class: events.ClassDeleted, Reason: "deleted",
			Message: "the Job was deleted while the build ran", FinishedAt: w.l.cfg.Now().UTC(),
		}
	case untold != nil:
		return 0, untold
	default:
		if err := w.tellBegan(job, pods); err != nil {
			return 0, err
		}
		return w.wait(ctx, id, job, pods)
	}
	if untold != nil {
		w.l.cfg.Log.Warn("the start of a build was not told", "build", id, "err", untold)
	}
	return 0, w.finish(ctx, id, job, gone, res)
}

// wait gives up a build whose executor does not start, and says how long it
// may still take.
func (w *watcher) wait(ctx context.Context, id string, job *batchv1.Job, pods []*corev1.Pod) (again time.Duration, err error) {
	if _, ok := began(pods); ok || job.Spec.Suspend != nil && *job.Spec.Suspend {
		return 0, nil
	}
	since := job.CreationTimestamp.Time
	if job.Status.StartTime != nil {
		since = job.Status.StartTime.Time
	}
	req, err := requestOf(job)
	if err != nil {
		return 0, err
	}
	limit := orDefault(req.PendingTimeout, w.l.cfg.PendingTimeout)
	if left := limit - w.l.cfg.Now().Sub(since); left > 0 {
		return left, nil
	}
	res := problem(events.ClassInfraStart, "not started",
		fmt.Sprintf("the executor did not start within %s: %s", limit, waiting(pods)))
	res.FinishedAt = w.l.cfg.Now().UTC()
	return 0, w.finish(ctx, id, job, false, res)
}

// finish brings a build to its end, and with it a Job that would go on.
func (w *watcher) finish(ctx context.Context, id string, job *batchv1.Job, gone bool, res events.Result) error {
	_, err := w.l.cfg.Finish(ctx, id, res)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.tellEnded(ctx, job); err != nil {
		return err
	}
	if !gone && !isComplete(job) && failure(job) == nil && res.Outcome != events.OutcomeSuccess {
		if err := w.stop(ctx, id, res); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.told, id)
	delete(w.deleted, id)
	if gone {
		delete(w.done, id)
	} else {
		w.done[id] = true
	}
	return nil
}

// stop ends a Job that would try again or waits for ever. One whose pod failed
// for good ends by itself.
func (w *watcher) stop(ctx context.Context, id string, res events.Result) error {
	switch res.Class {
	case events.ClassInfraStart, events.ClassDisk:
		return w.l.Cancel(ctx, id)
	}
	return nil
}

func (w *watcher) isDone(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done[id]
}

// tellStarted announces that an executor runs, once for each.
func (w *watcher) tellStarted(ctx context.Context, id string, job *batchv1.Job, pods []*corev1.Pod) error {
	at, ok := began(pods)
	w.mu.Lock()
	known := w.told[id] == at
	w.mu.Unlock()
	if !ok || known || w.l.cfg.Started == nil {
		return nil
	}
	req, err := requestOf(job)
	if err != nil {
		return err
	}
	if err := w.l.cfg.Started(ctx, req, time.Unix(0, at)); err != nil {
		return fmt.Errorf("announce start: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[id] = at
	return nil
}

// tellBegan has the log of an executor that has begun kept.
func (w *watcher) tellBegan(job *batchv1.Job, pods []*corev1.Pod) error {
	if _, ok := began(pods); !ok || w.l.cfg.Logs == nil {
		return nil
	}
	req, err := requestOf(job)
	if err == nil {
		w.l.cfg.Logs.Began(req)
	}
	return err
}

// tellEnded says that the log of a build has an end.
func (w *watcher) tellEnded(ctx context.Context, job *batchv1.Job) error {
	if w.l.cfg.Logs == nil {
		return nil
	}
	req, err := requestOf(job)
	if err != nil {
		return err
	}
	return w.l.cfg.Logs.Ended(ctx, req)
}

// requestOf reads the request that a Job carries.
func requestOf(job *batchv1.Job) (events.Request, error) {
	var req events.Request
	if err := json.Unmarshal([]byte(job.Spec.Template.Annotations[AnnotationRequest]), &req); err != nil {
		return events.Request{}, fmt.Errorf("read request of Job %s: %w", job.Name, err)
	}
	return req, nil
}
