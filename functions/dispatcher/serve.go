package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/cdevents"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/finish"
	"github.com/kilnhook/kiln/infra/bus"
	buspubsub "github.com/kilnhook/kiln/infra/bus/pubsub"
	"github.com/kilnhook/kiln/infra/local/launch"
	"github.com/kilnhook/kiln/infra/local/registry"
	"github.com/kilnhook/kiln/infra/oidc"
)

const (
	shutdownTime  = 5 * time.Second  // for requests to end
	lsRemoteTime  = 10 * time.Second // for a repository to say where a ref is
	readHeadTime  = 30 * time.Second
	keepAliveTime = 2 * time.Minute
)

// service is the running whole.
type service struct {
	cfg        config
	ledger     store
	ledgerURL  string
	out        func(ctx context.Context, e event.Event) error // where events go
	bus        *bus.Bus                                       // nil unless they go to the spool
	webhooks   *bus.Webhooks                                  // of bus
	topic      *buspubsub.Publisher                           // nil unless they go to Pub/Sub
	launcher   *launch.Launcher
	dispatcher *dispatch.Dispatcher
	pulls      []puller
	closers    []io.Closer // of pulls
}

// open opens everything that the configuration names. ctx must live as long as
// the service.
func open(ctx context.Context, cfg config) (*service, error) {
	if err := checkListen(cfg); err != nil {
		return nil, err
	}
	s := &service{cfg: cfg}
	for _, step := range []func(context.Context) error{s.openLedger, s.openBus, s.openBuilds, s.openPulls} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// checkListen refuses to open doors without a lock to a network.
func checkListen(cfg config) error {
	host, _, err := net.SplitHostPort(cfg.listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", cfg.listen, err)
	}
	ip := net.ParseIP(host)
	if len(cfg.tokens) == 0 && cfg.clouds.oidc.Audience == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--listen %s can be reached from elsewhere: give --token-file or --oidc-audience, or listen on 127.0.0.1", cfg.listen)
	}
	return nil
}

func (s *service) openLedger(ctx context.Context) (err error) {
	s.ledger, s.ledgerURL, err = openLedger(ctx, s.cfg)
	if err != nil {
		s.ledger = nil
	}
	return err
}

func (s *service) openBuilds(ctx context.Context) error {
	client := registry.Client{Plain: s.cfg.insecureRegistries}
	finisher, err := finish.New(finish.Config{
		Ledger: s.ledger, Publish: s.publish, CheckDigest: client.CheckDigest, MoveTags: client.MoveTags,
		Now: s.cfg.now, Log: s.cfg.log,
	})
	if err != nil {
		return err
	}
	s.launcher, err = launch.Open(launch.Config{
		Dir: filepath.Join(s.cfg.data, "builds"), Executor: s.cfg.executor, Env: s.cfg.executorEnv,
		Parallel: s.cfg.parallel, Timeout: s.cfg.timeout, Finish: finisher.Finish, Started: s.started, Flags: s.flags,
		Now: s.cfg.now, Log: s.cfg.log,
	})
	if err != nil {
		return err
	}
	var identity func(context.Context, http.Header) error
	if s.cfg.clouds.oidc.Audience != "" {
		verifier, err := oidc.New(ctx, s.cfg.clouds.oidc)
		if err != nil {
			return err
		}
		identity = verifier.Verify
	}
	s.dispatcher, err = dispatch.New(dispatch.Config{
		Ledger: s.ledger, Triggers: s.cfg.triggers, Launcher: launcher{s.launcher}, Publish: s.publish,
		Install: s.cfg.install, ResolveRef: s.resolveRef, Finisher: finisher,
		GitHubSecrets: s.cfg.githubSecrets, GitLabSecrets: s.cfg.gitlabSecrets,
		GiteaSecrets: s.cfg.giteaSecrets, Bitbucket: s.cfg.bitbucket, Tokens: s.cfg.tokens, Identity: identity, Now: s.cfg.now, Log: s.cfg.log,
	})
	return err
}

// close releases what was opened.
func (s *service) close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	if s.bus != nil {
		errs = append(errs, s.bus.Close())
	}
	if s.topic != nil {
		errs = append(errs, s.topic.Close())
	}
	if s.ledger != nil {
		errs = append(errs, s.ledger.Close())
	}
	return errors.Join(errs...)
}

// publish sends an event out, and what it is in CDEvents if that is wanted.
func (s *service) publish(ctx context.Context, e event.Event) error {
	if err := s.out(ctx, e); err != nil || !s.cfg.clouds.cdevents {
		return err
	}
	mirrored, err := cdevents.Mirror(e)
	if err != nil {
		return err
	}
	for _, m := range mirrored {
		if err := s.out(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// deliver hands messages of a door to the dispatcher, which is there by the time
// one comes.
func (s *service) deliver(door string) func(ctx context.Context, h http.Header, body []byte) error {
	return func(ctx context.Context, h http.Header, body []byte) error {
		return s.dispatcher.Deliver(ctx, door, h, body)
	}
}

// started says that an executor runs.
func (s *service) started(ctx context.Context, req events.Request, at time.Time) error {
	e, err := events.StartedEvent(req, at)
	if err != nil {
		return err
	}
	return s.publish(ctx, e)
}

// flags are those that every executor gets.
func (s *service) flags(context.Context, events.Request, func(string)) ([]string, error) {
	var all []string
	for _, host := range s.cfg.insecureRegistries {
		all = append(all, "--insecure-registry", host)
	}
	return append(all, s.cfg.executorFlags...), nil
}

// resolveRef asks a repository over https where a ref is.
func (s *service) resolveRef(ctx context.Context, c events.Change) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lsRemoteTime, errors.New("the repository does not answer"))
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", "ls-remote", "--", "https://"+c.Location+".git", c.Name)
	cmd.Env = append(slices.Clone(s.cfg.executorEnv), "GIT_TERMINAL_PROMPT=0", "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s where %s is: %w", c.Location, c.Name, err)
	}
	for line := range strings.Lines(string(out)) {
		if head, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && name == c.Name {
			return head, nil
		}
	}
	return "", nil
}

// errStopped is why everything ends when the program is asked to end.
var errStopped = errors.New("the dispatcher is stopping")

// serve answers, builds, delivers and sweeps until the context ends, and then
// closes the service. Builds that run then are launched again the next time.
func (s *service) serve(ctx context.Context, ready func(string)) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), s.close())
	}
	s.cfg.log.Info("listening", "address", l.Addr().String(), "triggers", len(s.cfg.triggers.All()))
	if ready != nil {
		ready(l.Addr().String())
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serveHTTP(running, l) })
	group.Go(func() error { return s.launcher.Run(running) })
	if s.webhooks != nil {
		group.Go(func() error { return s.webhooks.Run(running) })
	}
	for _, pull := range s.pulls {
		group.Go(func() error { return pull(running) })
	}
	group.Go(func() error { return s.sweep(running) })
	err = group.Wait()
	if ctx.Err() != nil {
		err = nil // it was asked to end
	}
	return errors.Join(err, s.close())
}

// handler is all doors.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	doors := s.dispatcher.Handler()
	mux.Handle("/hooks/", doors)
	mux.Handle("/events/in", doors)
	if s.bus != nil {
		mux.Handle("GET /events", s.guarded(s.bus.SSEHandler()))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
	})
	return mux
}

// guarded lets only those in who have a token, if there are tokens.
func (s *service) guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(s.cfg.tokens) > 0 && source.VerifyBearer(s.cfg.tokens, r.Header) != nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, source.ErrUnauthorised.Error(), http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (s *service) serveHTTP(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: readHeadTime, IdleTimeout: keepAliveTime,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), shutdownTime, errors.New("requests took too long to end"))
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		s.cfg.log.Warn("end requests", "err", errors.Join(err, srv.Close()))
	}
	return errStopped
}

// sweep sweeps at start and then again and again.
func (s *service) sweep(ctx context.Context) error {
	ticker := time.NewTicker(s.cfg.sweep)
	defer ticker.Stop()
	for {
		if err := s.dispatcher.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.cfg.log.Warn("sweep; trying again later", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errStopped
		}
	}
}

// launcher is the launcher of child processes as the dispatcher wants it.
type launcher struct{ l *launch.Launcher }

var _ dispatch.Prober = launcher{}

// Launch implements dispatch.Launcher.
func (a launcher) Launch(ctx context.Context, req events.Request) error {
	err := a.l.Launch(ctx, req)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", dispatch.ErrExists, err)
	}
	return err
}

// Cancel implements dispatch.Launcher.
func (a launcher) Cancel(ctx context.Context, buildID string) error { return a.l.Cancel(ctx, buildID) }

// State implements dispatch.Prober.
func (a launcher) State(_ context.Context, buildID string) (dispatch.State, error) {
	status, ok := a.l.Status(buildID)
	switch {
	case !ok:
		return dispatch.StateNone, nil
	case status.State == launch.Queued:
		return dispatch.StatePending, nil
	}
	return dispatch.StateRunning, nil
}
