package jobsink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/knative/launch"
	"github.com/kilnhook/kiln/knative/podlog"
)

// FollowerConfig is that of a Follower. All but Resync and Log are required.
type FollowerConfig struct {
	Client   kubernetes.Interface // may get, list and watch pods
	Sink     Sink
	Attempts int // of a build, at most
	Ledger   Lister
	Logs     Logs
	// Reach is how long after its request the Job of a build may be made, of its last
	// attempt: in older requests nobody looks for the build of a pod.
	Reach  time.Duration
	Resync time.Duration // how often all pods are looked at again; 0 is 1 min
	Log    *slog.Logger  // nil discards
}

// Lister is where requests and results are recorded.
type Lister interface {
	Ledger
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
}

// Logs keeps what executors print; podlog.Keeper is one. Began may be called again for
// the same request, and Ended without it.
type Logs interface {
	Began(req events.Request) // its executor runs
	Ended(ctx context.Context, req events.Request) error
}

// Follower has the logs of a JobSink's executors kept. It sees pods and nothing else:
// which build one is of it finds among the requests in the ledger, as the names of
// their Jobs follow from these.
type Follower struct{ cfg FollowerConfig }

// NewFollower returns a Follower.
func NewFollower(cfg FollowerConfig) (*Follower, error) {
	if cfg.Client == nil || cfg.Sink == (Sink{}) || cfg.Attempts <= 0 || cfg.Ledger == nil || cfg.Logs == nil || cfg.Reach <= 0 {
		return nil, errors.New("follower needs a client, a JobSink, its attempts and their reach, a ledger and a keeper of logs")
	}
	if cfg.Resync <= 0 {
		cfg.Resync = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Follower{cfg: cfg}, nil
}

// Run follows the pods of the JobSink until ctx is done. Several processes may do so at
// once; it is only more work.
func (f *Follower) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(f.cfg.Client, f.cfg.Resync,
		informers.WithNamespace(f.cfg.Sink.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = labelJob + ",!" + launch.LabelBuild }))
	pods := factory.Core().V1().Pods()
	r := &round{
		f: f, pods: pods.Lister().Pods(f.cfg.Sink.Namespace),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, time.Minute)),
		jobs:  map[string]*job{}, open: map[string]map[string]events.Request{},
	}
	if _, err := pods.Informer().AddEventHandler(r.handler()); err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), pods.Informer().HasSynced) {
		return fmt.Errorf("list pods in namespace %s: %w", f.cfg.Sink.Namespace, context.Cause(ctx))
	}
	stop := context.AfterFunc(ctx, r.queue.ShutDown)
	defer stop()
	for {
		name, closed := r.queue.Get()
		if closed {
			return context.Cause(ctx)
		}
		if err := r.look(ctx, name); err != nil && ctx.Err() == nil {
			f.cfg.Log.Warn("follow the log of a Job", "job", name, "err", err)
			r.queue.AddRateLimited(name)
		} else {
			r.queue.Forget(name)
		}
		r.queue.Done(name)
	}
}

// round is one Run. Its maps belong to the goroutine that takes from the queue.
type round struct {
	f     *Follower
	pods  corelisters.PodNamespaceLister
	queue workqueue.TypedRateLimitingInterface[string] // of names of Jobs
	jobs  map[string]*job                              // those that have pods, by name
	open  map[string]map[string]events.Request         // what Jobs of open builds run, by their names and keys
}

// job is what is known of a Job that has pods.
type job struct {
	req  events.Request
	ours bool // there is a request that it is of
	done bool // its log is cared for
}

func (r *round) handler() cache.ResourceEventHandler {
	add := func(obj any) {
		if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = last.Obj
		}
		if pod, ok := obj.(*corev1.Pod); ok && strings.HasPrefix(pod.Labels[labelJob], r.f.cfg.Sink.Name+"-") {
			r.queue.Add(pod.Labels[labelJob])
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }, DeleteFunc: add}
}

// look does what the pods of a Job call for.
func (r *round) look(ctx context.Context, name string) error {
	pods, err := r.pods.List(labels.SelectorFromSet(labels.Set{labelJob: name}))
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	if len(pods) == 0 {
		delete(r.jobs, name)
		return nil
	}
	begun, ended := false, true
	for _, p := range pods {
		b, e := podlog.Phase(p)
		begun, ended = begun || b, ended && e
	}
	if !begun {
		return nil
	}
	if r.jobs[name] == nil {
		if err := r.find(ctx, name); err != nil {
			return err
		}
	}
	j := r.jobs[name]
	switch {
	case !j.ours || j.done && ended:
		return nil
	case !ended:
		j.done = false // it is tried again
		r.f.cfg.Logs.Began(j.req)
		return nil
	}
	found, err := r.f.cfg.Ledger.List(ctx, record.ResultKey(j.req.BuildID), "", 1)
	if err != nil {
		return fmt.Errorf("look for the outcome of build %s: %w", j.req.BuildID, err)
	}
	if len(found) == 0 {
		r.f.cfg.Logs.Began(j.req) // and its outcome is waited for
		return nil
	}
	if err := r.f.cfg.Logs.Ended(ctx, j.req); err != nil {
		return err
	}
	j.done = true
	return nil
}

// find finds out which build a Job is of: one that is open, or else, as after a change
// of the leader, one that has ended.
func (r *round) find(ctx context.Context, name string) error {
	if err := r.readOpen(ctx); err != nil {
		return err
	}
	for _, jobs := range r.open {
		if req, ok := jobs[name]; ok {
			r.jobs[name] = &job{req: req, ours: true}
			return nil
		}
	}
	return r.findEnded(ctx)
}

// jobs are the requests that executors get of a build, by the names that their Jobs
// have or would have.
func (f *Follower) jobs(whole events.Request) map[string]events.Request {
	all := whole.Parts()
	if len(all) == 0 {
		all = []events.Request{whole}
	}
	jobs := map[string]events.Request{}
	for _, req := range all {
		for attempt := range f.cfg.Attempts {
			jobs[f.cfg.Sink.JobName(req, attempt+1)] = req
		}
	}
	return jobs
}

// readOpen reads those open builds that were not there the last time.
func (r *round) readOpen(ctx context.Context) error {
	now := map[string]map[string]events.Request{}
	err := r.each(ctx, record.OpenPrefix, func(key string) (bool, error) {
		if jobs, ok := r.open[key]; ok {
			now[key] = jobs
			return true, nil
		}
		var open record.Open
		_, err := record.Load(ctx, r.f.cfg.Ledger, key, &open)
		if err == nil {
			now[key] = r.f.jobs(open.Request)
		}
		return true, missing(err)
	})
	if err == nil {
		r.open = now
	}
	return err
}

// missing passes on errors but for that of a record which is gone.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// findEnded looks through the list of all builds for those that pods of unknown Jobs
// are of, the newest first and no further back than these can be.
func (r *round) findEnded(ctx context.Context) error {
	unknown, oldest, err := r.unknown()
	if err != nil {
		return err
	}
	found := map[string]*job{}
	err = r.each(ctx, record.IndexPrefix, func(key string) (bool, error) {
		if record.IndexTime(key).Before(oldest.Add(-r.f.cfg.Reach)) {
			return false, nil
		}
		var whole events.Request
		if _, err := record.Load(ctx, r.f.cfg.Ledger, record.RequestKey(record.IndexBuildID(key)), &whole); err != nil {
			return true, missing(err)
		}
		for name, req := range r.f.jobs(whole) {
			if unknown[name] {
				found[name] = &job{req: req, ours: true}
			}
		}
		return len(found) < len(unknown), nil
	})
	if err != nil {
		return err
	}
	for name := range unknown {
		r.jobs[name] = found[name]
		if found[name] == nil {
			r.f.cfg.Log.Warn("a Job of the JobSink is of no build in the ledger: its log is not kept", "job", name)
			r.jobs[name] = &job{}
		}
	}
	return nil
}

// unknown are the Jobs of the JobSink that have pods and whose build is not known, and
// when the oldest of these pods was made.
func (r *round) unknown() (names map[string]bool, oldest time.Time, err error) {
	pods, err := r.pods.List(labels.Everything())
	if err != nil {
		return nil, oldest, fmt.Errorf("list pods: %w", err)
	}
	names = map[string]bool{}
	for _, p := range pods {
		name := p.Labels[labelJob]
		if !strings.HasPrefix(name, r.f.cfg.Sink.Name+"-") || r.jobs[name] != nil {
			continue
		}
		names[name] = true
		if oldest.IsZero() || p.CreationTimestamp.Time.Before(oldest) {
			oldest = p.CreationTimestamp.Time
		}
	}
	return names, oldest, nil
}

// each calls f for the keys below a prefix until it says that it has enough.
func (r *round) each(ctx context.Context, prefix string, f func(key string) (more bool, err error)) error {
	const page = 500
	for after := ""; ; {
		keys, err := r.f.cfg.Ledger.List(ctx, prefix, after, page)
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, key := range keys {
			if more, err := f(key); err != nil || !more {
				return err
			}
			after = key
		}
		if len(keys) < page {
			return nil
		}
	}
}
