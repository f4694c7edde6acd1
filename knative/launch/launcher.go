package launch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/dispatch"
)

// Config of a Launcher. Client, Namespace, Template.Image, Finish and Now are
// required.
type Config struct {
	Client    kubernetes.Interface // with enough queries a second: its default of 5 is too few
	Namespace string               // of the Jobs
	Template  Template
	// PendingTimeout is how long a build may wait for its container to start
	// before it is given up; 0 is 10 min. A suspended Job is not waiting.
	PendingTimeout time.Duration
	// Finish claims and announces the result of a build. It is tried again until
	// it succeeds or its error wraps fs.ErrNotExist.
	Finish func(ctx context.Context, buildID string, res events.Result) (events.Result, error)
	// Started announces that an executor runs; nil announces nothing. It may be
	// called again for the same attempt.
	Started func(ctx context.Context, req events.Request, at time.Time) error
	// Logs is told of executors whose logs are to be kept; nil keeps none.
	Logs Logs
	Now  func() time.Time
	Log  *slog.Logger // nil discards
}

// Logs keeps what executors print. Began may be called again for the same request,
// and Ended without it.
type Logs interface {
	Began(req events.Request) // its executor runs
	Ended(ctx context.Context, req events.Request) error
}

// Launcher runs builds as Jobs in one namespace. Its methods may be called at
// once from any number of goroutines and processes.
type Launcher struct {
	cfg  Config
	jobs atomic.Pointer[lister] // of Run, while it runs
}

var (
	_ dispatch.Launcher = (*Launcher)(nil)
	_ dispatch.Prober   = (*Launcher)(nil)
)

// New returns a Launcher.
func New(cfg Config) (*Launcher, error) {
	if cfg.Client == nil || cfg.Namespace == "" || cfg.Template.Image == "" || cfg.Finish == nil || cfg.Now == nil {
		return nil, errors.New("launcher needs a client, a namespace, an executor image, a finisher and a clock")
	}
	if err := cfg.Template.Profile.valid(); err != nil {
		return nil, err
	}
	if cfg.PendingTimeout <= 0 {
		cfg.PendingTimeout = 10 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Launcher{cfg: cfg}, nil
}

func (p Profile) valid() error {
	switch p {
	case "", ProfileOverlay, ProfileDefault, ProfileInPlace, ProfileRestricted:
		return nil
	}
	return fmt.Errorf("profile %q is none of %s, %s, %s, %s", p, ProfileOverlay, ProfileDefault, ProfileInPlace, ProfileRestricted)
}

// Launch makes the Job of a build. The error matches dispatch.ErrExists if there
// is one, and dispatch.ErrQuota if the namespace has no room for another.
func (l *Launcher) Launch(ctx context.Context, req events.Request) error {
	job, err := l.cfg.Template.Job(req, l.cfg.Namespace)
	if err != nil {
		return err
	}
	_, err = l.client().Create(ctx, job, metav1.CreateOptions{FieldManager: managedBy})
	switch {
	case err == nil:
		l.cfg.Log.Info("job created", "build", req.BuildID, "job", job.Name, "attempt", req.Attempt)
		return nil
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("create Job %s: %w", job.Name, dispatch.ErrExists)
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"), apierrors.IsTooManyRequests(err):
		return fmt.Errorf("create Job %s: %w: %w", job.Name, dispatch.ErrQuota, err)
	}
	return fmt.Errorf("create Job %s in namespace %s: %w", job.Name, l.cfg.Namespace, err)
}

// Cancel deletes the Job of a build and, in the background, its pods.
func (l *Launcher) Cancel(ctx context.Context, buildID string) error {
	err := l.client().Delete(ctx, JobName(buildID), metav1.DeleteOptions{
		PropagationPolicy: ptr(metav1.DeletePropagationBackground),
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Job %s: %w", JobName(buildID), err)
	}
	return nil
}

// State implements dispatch.Prober. A Job that has ended still exists: its
// outcome is about to be announced.
func (l *Launcher) State(ctx context.Context, buildID string) (dispatch.State, error) {
	job, err := l.client().Get(ctx, JobName(buildID), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return dispatch.StateNone, nil
	case err != nil:
		return dispatch.StateNone, fmt.Errorf("get Job %s: %w", JobName(buildID), err)
	}
	return stateOf(job), nil
}

func stateOf(job *batchv1.Job) dispatch.State {
	switch {
	case job.DeletionTimestamp != nil:
		return dispatch.StateNone
	case deref32(job.Status.Ready) > 0, isComplete(job), failure(job) != nil, job.Status.Failed > 0:
		return dispatch.StateRunning
	}
	return dispatch.StatePending
}

// lister is what a Launcher that is in Run knows of Jobs and pods.
type lister struct {
	jobs batchlisters.JobNamespaceLister
	pods corelisters.PodNamespaceLister
}

// Load is how many builds wait for their executor and how many run: parts of a build
// for several platforms count each. Only who is in Run knows; for others there are
// none.
func (l *Launcher) Load() (queued, running int) {
	known := l.jobs.Load()
	if known == nil {
		return 0, 0
	}
	all, err := known.jobs.List(labels.Everything())
	if err != nil {
		return 0, 0 // of a cache in memory: cannot happen
	}
	for _, job := range all {
		switch {
		case isComplete(job), failure(job) != nil, job.DeletionTimestamp != nil:
		case deref32(job.Status.Ready) > 0:
			running++
		default:
			queued++
		}
	}
	return queued, running
}

// Glance is State for people: it may be some moments old where that spares a request to
// the API server, as it does who is in Run.
func (l *Launcher) Glance(ctx context.Context, buildID string) (dispatch.State, error) {
	known := l.jobs.Load()
	if known == nil {
		return l.State(ctx, buildID)
	}
	job, err := known.jobs.Get(JobName(buildID))
	if err != nil {
		return dispatch.StateNone, nil //nolint:nilerr // a cache has no other error than that it is not there
	}
	state := stateOf(job)
	if state == dispatch.StatePending { // a pod is a second ahead of its Job
		pods, err := known.pods.List(labels.SelectorFromSet(labels.Set{LabelBuild: buildID}))
		if _, ok := began(pods); ok && err == nil {
			state = dispatch.StateRunning
		}
	}
	return state, nil
}

func (l *Launcher) client() jobClient { return l.cfg.Client.BatchV1().Jobs(l.cfg.Namespace) }

// jobClient is what of Kubernetes' client a Launcher writes with.
type jobClient interface {
	Create(ctx context.Context, job *batchv1.Job, opts metav1.CreateOptions) (*batchv1.Job, error)
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*batchv1.Job, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

func deref32(p *int32) int32 {
	if p == nil {
		return 0
	}
	return *p
}
