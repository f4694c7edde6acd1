// Package local is Kiln on one machine: one process, one data directory, no
// cloud. It joins a bucket, git repositories, an OCI registry, the dispatcher,
// a launcher of child processes, a bus and a web page behind two listeners on
// the loopback interface.
//
// Everything that was acknowledged survives a restart: events in the bus'
// spool, requests and outcomes in the ledger, uploads and pushes in bucket and
// repositories, images and tags in the registry, logs beside the builds. A
// sweep at start and every minute finishes what a crash left undone.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/finish"
	"github.com/kilnhook/kiln/functions/report"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/console"
	"github.com/kilnhook/kiln/infra/gitremote"
	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/infra/local/base"
	"github.com/kilnhook/kiln/infra/local/bucket"
	"github.com/kilnhook/kiln/infra/local/buildlog"
	"github.com/kilnhook/kiln/infra/local/gitd"
	"github.com/kilnhook/kiln/infra/local/keep"
	"github.com/kilnhook/kiln/infra/local/launch"
	"github.com/kilnhook/kiln/infra/local/registry"
	"github.com/kilnhook/kiln/infra/local/serving"
	"github.com/kilnhook/kiln/infra/observe"
)

// DefaultListen is where a stack listens unless told otherwise. S3 is served
// on the port after it.
const DefaultListen = "127.0.0.1:8765"

// Config says what to run. Dir, Executor, HookArgs and Now are required; the
// zero value of the rest works.
type Config struct {
	Dir          string   // the data directory; made if it is not there
	Listen       string   // host:port; "" is DefaultListen, port 0 any free port, the same again after a restart if it is still free
	ListenS3     string   // host:port; "" is the port after Listen's
	Hosts        []string // further host names that clients may use for the stack
	Executor     []string // command of the executor
	ExecutorArgs []string // further flags for it
	Isolation    string   // of RUN; "" is overlay, which never touches this machine's own root
	HookArgs     []string // command that runs gitd.RunHook
	Env          []string // environment of executors and helpers: PATH, proxies, credentials' places

	Triggers     []byte // kiln.yaml; nil is DefaultTriggers
	TriggersFile string // its name, for errors

	Webhooks []bus.Subscriber // who gets every event posted
	// Secrets are those of the doors. With tokens, /hooks/git, /hooks/s3,
	// /hooks/registry, /events/in and /v1/ may be reached under any host name;
	// without, they are for this machine alone.
	Secrets     serving.Secrets
	Reports     report.Config // where builds are told besides
	BaseMirrors []string      // "host[/path]" to get Docker Hub's images from, best first

	Parallel                   int           // builds at a time; 0 is 2
	MaxQueued, MaxTenantQueued int           // builds that wait, in all and of one tenant; 0 are fair's defaults
	Timeout                    time.Duration // of a build whose trigger has none; 0 is one hour
	MaxUpload                  int64         // bytes of an uploaded context; 0 is 16 GiB

	SweepEvery time.Duration // 0 is one minute
	Keep       keep.Rules    // of old builds and contexts; zero keeps all
	Version    string        // shown by /healthz
	Traces     bool          // export them, to where OTEL_EXPORTER_OTLP_ENDPOINT and the like say
	Now        func() time.Time
	Log        *slog.Logger // nil discards
}

// Stack is the running whole. Open it, Serve it, and it closes itself.
type Stack struct {
	cfg      Config
	install  string
	lock     *os.File
	http, s3 net.Listener

	ledger     *ledger.Dir
	bus        *bus.Bus
	webhooks   *bus.Webhooks
	reports    *serving.Reports
	bucket     *bucket.Store
	git        *gitd.Server
	registry   *registry.Server
	client     registry.Client
	bases      *base.Images
	launcher   *launch.Launcher
	finisher   *finish.Finisher
	dispatcher *dispatch.Dispatcher
	console    *console.Console
	metrics    *observe.Metrics
	traces     *serving.Traces

	repositories *gitremote.Client
	set          trigger.Set
	addresses    []string // that the registry has had, the present one among them
}

// Open opens the data directory and everything in it, and listens. Nothing is
// answered and nothing is built before Serve. The error wraps ErrInUse if
// another stack has the directory.
func Open(ctx context.Context, cfg Config) (*Stack, error) {
	if cfg.Dir == "" || len(cfg.Executor) == 0 || len(cfg.HookArgs) == 0 || cfg.Now == nil {
		return nil, errors.New("open stack: Dir, Executor, HookArgs and Now are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Isolation == "" {
		cfg.Isolation = "overlay"
	}
	if cfg.SweepEvery <= 0 {
		cfg.SweepEvery = time.Minute
	}
	var err error
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open stack: %w", err)
	}
	s := &Stack{cfg: cfg}
	for _, step := range []func(context.Context) error{
		s.openDir, s.listen, s.openStores, s.openConsole, s.openEvents, s.openBuilds, s.openDoors,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("open stack in %s: %w", cfg.Dir, err), s.close())
		}
	}
	return s, nil
}

func (s *Stack) path(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, parts...)...)
}

// Registry is the host:port of the stack's own registry.
func (s *Stack) Registry() string { return reachable(s.http) }

// URL is the address of the page, the API and all doors but S3.
func (s *Stack) URL() string { return "http://" + reachable(s.http) }

// S3URL is the address for S3 clients.
func (s *Stack) S3URL() string { return "http://" + reachable(s.s3) }

// reachable is the host:port at which programs on this machine reach a
// listener, also one that listens on every interface.
func reachable(l net.Listener) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return l.Addr().String()
}

// openStores opens what holds state but starts nothing.
func (s *Stack) openStores(ctx context.Context) (err error) {
	if s.ledger, err = ledger.OpenDir(s.path("ledger")); err != nil {
		return err
	}
	if s.registry, err = registry.Open(context.WithoutCancel(ctx), s.path("registry"), s.cfg.Log); err != nil {
		return err
	}
	if err := s.readAddresses(); err != nil {
		return err
	}
	s.client = registry.Client{Plain: []string{s.Registry()}}
	s.bases = base.New(base.Config{
		Mirrors: s.cfg.BaseMirrors, Registry: s.Registry(), Client: s.client, Dir: s.path("tmp"),
		Env: s.cfg.Env, Arch: runtime.GOARCH, Now: s.cfg.Now, Log: s.cfg.Log,
	})
	return nil
}

// openEvents opens the bus and its subscribers.
func (s *Stack) openEvents(context.Context) (err error) {
	if s.bus, err = bus.Open(s.path("bus"), bus.Options{Log: s.cfg.Log}); err != nil {
		return err
	}
	s.webhooks, err = bus.NewWebhooks(s.bus, bus.WebhookOptions{Subscribers: s.cfg.Webhooks, Now: s.cfg.Now, Log: s.cfg.Log})
	return err
}

// openBuilds joins finisher, launcher and dispatcher.
func (s *Stack) openBuilds(ctx context.Context) (err error) {
	s.finisher, err = finish.New(finish.Config{
		Ledger: s.ledger, Publish: s.publish, CheckDigest: s.checkDigest, MoveTags: s.moveTags, PushIndex: s.pushIndex,
		Stop: func(ctx context.Context, id string) error { return s.launcher.Cancel(ctx, id) },
		Now:  s.cfg.Now, Log: s.cfg.Log,
	})
	if err != nil {
		return err
	}
	s.launcher, err = launch.Open(launch.Config{
		Dir: s.path("builds"), Executor: s.cfg.Executor, Env: s.cfg.Env, Parallel: s.cfg.Parallel, Timeout: s.cfg.Timeout,
		Store:     s.path("store"),
		MaxQueued: s.cfg.MaxQueued, MaxTenantQueued: s.cfg.MaxTenantQueued, Capacity: serving.Capacity(s.cfg.Dir),
		Finish: s.finisher.Finish, Started: s.started, Context: s.executorContext, Flags: s.executorFlags,
		Now: s.cfg.Now, Log: s.cfg.Log,
	})
	if err != nil {
		return err
	}
	s.metrics = observe.NewMetrics(s.cfg.Version, s.launcher.Load)
	if s.traces, err = serving.OpenTraces(ctx, s.bus, s.ledger, s.launcher, s.cfg.Traces, s.cfg.Log); err != nil {
		return err
	}
	set, err := s.triggers()
	if err != nil {
		return err
	}
	s.set = set
	if s.reports, err = serving.OpenReports(s.bus, s.ledger, s.cfg.Reports, set, s.cfg.Now, s.cfg.Log); err != nil {
		return err
	}
	s.repositories = gitremote.New(gitremote.Config{Dir: s.path("mirrors"), Env: s.cfg.Env, URL: s.repositoryURL})
	secrets := s.cfg.Secrets
	s.dispatcher, err = dispatch.New(dispatch.Config{
		Ledger: s.ledger, Triggers: set, Launcher: serving.Launcher{L: s.launcher}, Publish: s.publish, Install: s.install,
		Context: s.contextOf, ResolveRef: s.resolveRef, Finisher: s.finisher, Repositories: s.repositories, Describe: s.describe,
		ServeLog:      buildlog.Server{Logs: logs{s}, Over: s.logOver, Log: s.cfg.Log}.Serve,
		GitHubSecrets: secrets.GitHub, GitLabSecrets: secrets.GitLab, GiteaSecrets: secrets.Gitea, Bitbucket: secrets.Bitbucket, Tokens: secrets.Tokens,
		Now: s.cfg.Now, Log: s.cfg.Log,
	})
	return err
}

// openDoors opens where changes come in.
func (s *Stack) openDoors(ctx context.Context) (err error) {
	s.bucket, err = bucket.Open(s.path("bucket"), bucket.Options{
		MaxObject: s.cfg.MaxUpload, OnObject: s.onObject, Now: s.cfg.Now, Log: s.cfg.Log,
	})
	if err != nil {
		return err
	}
	s.git, err = gitd.Open(ctx, gitd.Config{
		Dir: s.path("git"), Hooks: s.path("git-hooks"), HookArgs: s.cfg.HookArgs, OnChange: s.onPush,
		CloneURL: func(repo string) string { return s.URL() + "/git/" + repo + ".git" },
		Env:      s.cfg.Env, Now: s.cfg.Now, Log: s.cfg.Log,
	})
	if err != nil {
		return err
	}
	return s.git.SetURL(s.URL() + hookPath)
}

// close releases what was opened, in reverse. It may be called on a half-open
// stack.
func (s *Stack) close() error {
	var errs []error
	if s.bus != nil {
		errs = append(errs, s.bus.Close())
	}
	if s.registry != nil {
		errs = append(errs, s.registry.Close())
	}
	if s.ledger != nil {
		errs = append(errs, s.ledger.Close())
	}
	for _, l := range []net.Listener{s.http, s.s3} {
		if l != nil {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// publish puts an event on the bus. The terminal event of a build is also kept
// beside its log, for the page.
func (s *Stack) publish(ctx context.Context, e event.Event) error {
	if e.Type() == events.TypeBuildFinished {
		if err := s.keepEvent(e); err != nil {
			return err
		}
	}
	place, err := s.bus.Publish(ctx, e)
	if err == nil {
		s.metrics.Event(e, place)
		s.console.Note(e)
	}
	return err
}

// started tells that an executor runs.
func (s *Stack) started(ctx context.Context, req events.Request, at time.Time) error {
	e, err := events.StartedEvent(req, at)
	if err != nil {
		return err
	}
	return s.publish(ctx, e)
}

// triggers reads the configured triggers or the built-in ones.
func (s *Stack) triggers() (trigger.Set, error) {
	if s.cfg.Triggers != nil {
		return trigger.Parse(s.cfg.TriggersFile, s.cfg.Triggers)
	}
	return trigger.Parse("built-in triggers", DefaultTriggers(s.Registry()))
}
