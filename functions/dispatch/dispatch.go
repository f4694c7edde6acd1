// Package dispatch turns changes into builds. What a change calls for is
// decided by Decide, which is pure; the Dispatcher around it carries that out,
// so that every step can be repeated: it writes down what it is about to do,
// enters the change in a register with a compare-and-swap, records the request,
// and starts an executor. Only then has a change been accepted.
package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/bitbucket"
	"github.com/kilnhook/kiln/events/source/gitlab"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/finish"
)

// Errors of a Launcher.
var (
	// ErrExists says that the build was launched before and is not finished.
	// To the dispatcher that is success.
	ErrExists = fmt.Errorf("build exists already: %w", fs.ErrExist)
	// ErrQuota says that no build can be launched now because of a limit. The
	// sender of the change is told to come again.
	ErrQuota = errors.New("quota of builds is used up")
)

// ErrFinished is the error of Cancel for a build that has an outcome already.
var ErrFinished = errors.New("build is finished already")

// Launcher starts executors. A build exists for it from Launch until its
// result is in the ledger, not only as long as its process runs; otherwise a
// sweep in between would launch it again.
type Launcher interface {
	// Launch starts the build or puts it in a queue. It need not survive this
	// process: a sweep launches what was lost. The error matches fs.ErrExist,
	// as ErrExists does, if the build exists, or has a result where the launcher can see that.
	Launch(ctx context.Context, req events.Request) error
	// Cancel stops the build. One that does not exist is no error.
	Cancel(ctx context.Context, buildID string) error
}

// State is where a build stands with its launcher.
type State string

// The states.
const (
	StateNone    State = ""        // it does not exist
	StatePending State = "pending" // it exists and has not begun
	StateRunning State = "running" // it has begun
)

// Prober is what a Launcher may be besides. Without it, builds are launched
// again without limit when they are lost, and the policy cancel-pending
// cancels nothing.
type Prober interface {
	State(ctx context.Context, buildID string) (State, error)
}

// Ledger is where changes and builds are recorded.
type Ledger interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	Create(ctx context.Context, key string, data []byte) (version string, err error)
	Swap(ctx context.Context, key, version string, data []byte) (newVersion string, err error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
}

// Finisher brings builds to their end. *finish.Finisher is one.
type Finisher interface {
	Claim(ctx context.Context, buildID string, res events.Result) (claimed events.Result, won bool, err error)
	Finish(ctx context.Context, buildID string, res events.Result) (events.Result, error)
	// Advance ends a build for several platforms if what became of them decides
	// it, and reports whether it has ended.
	Advance(ctx context.Context, buildID string) (ended bool, err error)
}

// Reuser is what a Finisher may be besides: it ends a build with the image of an
// earlier one that was asked for the very same, and reports whether it did.
type Reuser interface {
	Reuse(ctx context.Context, req events.Request) (bool, error)
}

// Config of a Dispatcher.
type Config struct {
	Ledger   Ledger      // required
	Triggers trigger.Set // which changes are built
	Launcher Launcher    // required
	// Publish hands an event to something durable; required. It may be called
	// with the same event again.
	Publish func(ctx context.Context, e event.Event) error
	Install string // name of this installation, in the source of events
	// Context says where an executor gets what a change brought. An error ends
	// the build with outcome error, class config. Nil is DefaultContext.
	Context func(c events.Change) (string, error)
	// ResolveRef asks the repository where a ref is, as git ls-remote does, and
	// returns an empty id if there is no such ref. Nil if nobody can ask.
	ResolveRef func(ctx context.Context, c events.Change) (string, error)
	// Repositories answers what path filters, narrowing files, healing and
	// schedules ask; nil if nobody can. Paths are then filtered by what the
	// sender says, and the others do nothing.
	Repositories Repositories
	// Finisher ends builds that are cancelled or cannot be run, and those that
	// a sweep finds unfinished. Nil is one that cannot ask a registry: builds
	// that pushed are then left for another to finish.
	Finisher Finisher

	// GitHubSecrets are the secrets of GitHub webhooks; several while they are
	// changed. None closes that door.
	GitHubSecrets [][]byte
	// GitLabSecrets are the signing keys and tokens of GitLab hooks. None
	// closes that door.
	GitLabSecrets gitlab.Secrets
	// GiteaSecrets are the secrets of webhooks of Gitea and Forgejo. None
	// closes that door.
	GiteaSecrets [][]byte
	// Bitbucket has the secrets of its webhooks. None closes that door.
	Bitbucket bitbucket.Config
	// Tokens are the bearer tokens of the other doors. Without them and without
	// Identity these are open to everybody who can reach them, which is right
	// only where the platform in front has checked, or on a loopback address.
	Tokens []string
	// Identity lets in, besides those with a token, whose request it knows by
	// an OIDC token. An error that matches source.ErrUnauthorised keeps the
	// sender out, any other asks it to come again. Nil knows nobody.
	Identity func(ctx context.Context, h http.Header) error

	// Describe adds to a build, for the API, what who runs it knows: its state
	// before it is finished, and the event that told its end. Nil if nobody knows.
	Describe func(ctx context.Context, b *Build) error

	// ServeLog answers a request for the log of a build that exists, for the API. Nil
	// if no logs are kept.
	ServeLog func(w http.ResponseWriter, r *http.Request, buildID string)

	// MaxAttempts is how often a build is launched before it is given up when
	// its executor is lost again and again; 0 is DefaultMaxAttempts. It needs a
	// Prober.
	MaxAttempts int
	// OrphanAge is the age at which a sweep forgets a build that was written
	// down and never accepted; 0 is 10 min.
	OrphanAge time.Duration
	// PendingTimeout is how long a build may wait for its executor to start
	// where its trigger does not say; 0 is for ever.
	PendingTimeout time.Duration
	// MaxInFlight is how many requests doors take at once; the others are told to
	// come again, so that memory stays bounded when the disk is slower than the
	// senders. 0 is 1000.
	MaxInFlight int
	// HealEvery is how often the repositories of triggers that heal are asked
	// for refs whose webhook was lost; 0 is 5 min.
	HealEvery time.Duration
	Now       func() time.Time // required
	Log       *slog.Logger     // nil discards
}

// DefaultMaxAttempts is how often a build is launched where nobody says otherwise.
const DefaultMaxAttempts = 3

// Dispatcher accepts changes. Its methods may be called at once from any
// number of goroutines, and by several processes on one ledger.
type Dispatcher struct {
	cfg      Config
	inFlight chan struct{} // a token for each request that a door is at
}

// New returns a Dispatcher.
func New(cfg Config) (*Dispatcher, error) {
	if cfg.Ledger == nil || cfg.Launcher == nil || cfg.Publish == nil || cfg.Now == nil {
		return nil, errors.New("dispatcher needs a ledger, a launcher, a place to publish to and a clock")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Context == nil {
		cfg.Context = DefaultContext
	}
	if cfg.MaxAttempts <= 0 {
		cfg.MaxAttempts = DefaultMaxAttempts
	}
	if cfg.OrphanAge <= 0 {
		cfg.OrphanAge = 10 * time.Minute
	}
	if cfg.MaxInFlight <= 0 {
		cfg.MaxInFlight = 1000
	}
	if cfg.HealEvery <= 0 {
		cfg.HealEvery = 5 * time.Minute
	}
	if cfg.Finisher == nil {
		f, err := finish.New(finish.Config{Ledger: cfg.Ledger, Publish: cfg.Publish, Now: cfg.Now, Log: cfg.Log})
		if err != nil {
			return nil, err
		}
		cfg.Finisher = f
	}
	return &Dispatcher{cfg: cfg, inFlight: make(chan struct{}, cfg.MaxInFlight)}, nil
}

// Status is what became of a change for one trigger.
type Status string

// The statuses.
const (
	StatusNew       Status = "new"       // it is being built
	StatusDuplicate Status = "duplicate" // it was accepted before; BuildID is that build
	StatusStale     Status = "stale"     // something newer was accepted before
	StatusIgnored   Status = "ignored"   // it calls for no build
)

// Decision is what became of a change for one trigger.
type Decision struct {
	Trigger string `json:"trigger"`
	BuildID string `json:"buildId,omitempty"`
	Status  Status `json:"status"`
	Reason  string `json:"reason,omitempty"`
}

// Handle accepts a change and returns what became of it, a decision for each
// trigger that matched. When it returns without an error, every build is in the
// ledger and was handed to the launcher: only now may the sender be told that
// the change was received. Otherwise the same change must be handled again; what
// was done for it is not done twice. The error is a *source.MalformedError for
// a change no repetition can mend.
func (d *Dispatcher) Handle(ctx context.Context, c events.Change) ([]Decision, error) {
	return d.handle(ctx, c, delivery{})
}

// delivery is what is known about how a change came, besides the change.
type delivery struct {
	traceParent string // W3C trace context
	trigger     string // the only one that is meant; empty is all
	priority    string // instead of a push's
}

// handle is Handle for a change that came in a certain way.
func (d *Dispatcher) handle(ctx context.Context, c events.Change, by delivery) ([]Decision, error) {
	if err := c.Validate(); err != nil {
		return nil, source.Malformed("change", "%w", err)
	}
	if c.Kind == events.KindImage {
		return d.handleImage(ctx, c)
	}
	var decisions []Decision
	var errs []error
	for _, m := range d.cfg.Triggers.Match(c) {
		if by.trigger != "" && by.trigger != m.Trigger.Name {
			continue
		}
		m.Request.Install, m.Request.TraceParent = d.cfg.Install, by.traceParent
		if by.priority != "" && m.Trigger.Run.Priority == "" {
			m.Request.Priority = by.priority
		}
		decision, err := d.dispatch(ctx, m)
		if err != nil {
			errs = append(errs, fmt.Errorf("dispatch %s %s for trigger %s: %w", c.Location, c.Name, m.Trigger.Name, err))
			continue
		}
		d.cfg.Log.Info("change handled", "trigger", m.Trigger.Name, "build", decision.BuildID,
			"status", string(decision.Status), "reason", decision.Reason, "delivery", c.Delivery)
		decisions = append(decisions, decision)
	}
	return decisions, errors.Join(errs...)
}

// DefaultContext is a change's context as the executor spells it: the commit
// of the repository that the trigger matched, over https, or the object in the
// generation or version of the change. The
// clone URL that a sender gave is not used.
func DefaultContext(c events.Change) (string, error) {
	if c.Kind != events.KindGit {
		if strings.HasPrefix(c.Location, "kiln://") {
			return "", fmt.Errorf("objects of %s can be fetched only by the stack that stores them", c.Location)
		}
		return pinned(c), nil
	}
	if strings.ContainsRune(c.Name, '#') {
		return "", fmt.Errorf("ref %s cannot be written in the address of a context because of its '#'", c.Name)
	}
	return "git://" + c.Location + ".git#" + c.Name + "#" + c.Revision(), nil
}

// etagForm is what stands for the version of an object of S3 that has none: its
// etag, and a sequencer.
var etagForm = regexp.MustCompile(`^[0-9a-fA-F]{32}(-[0-9]+)?(-[0-9a-fA-F]+)?$`)

// pinned is the address of an object of the generation that the change tells of,
// where the executor can ask for one, and never of what is newest.
func pinned(c events.Change) string {
	address := c.Location + "/" + c.Name
	switch {
	case strings.HasPrefix(c.Location, "gs://"):
		return address + "#" + c.Generation
	case strings.HasPrefix(c.Location, "s3://") && !etagForm.MatchString(c.Generation):
		return address + "?versionId=" + c.Generation
	}
	return address
}
