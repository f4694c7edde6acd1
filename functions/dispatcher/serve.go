package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/cdevents"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/finish"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/bus"
	buspubsub "github.com/kilnhook/kiln/infra/bus/pubsub"
	"github.com/kilnhook/kiln/infra/console"
	"github.com/kilnhook/kiln/infra/gitremote"
	"github.com/kilnhook/kiln/infra/local/buildlog"
	"github.com/kilnhook/kiln/infra/local/launch"
	"github.com/kilnhook/kiln/infra/local/registry"
	"github.com/kilnhook/kiln/infra/local/serving"
	"github.com/kilnhook/kiln/infra/observe"
)

// service is the running whole.
type service struct {
	cfg        config
	ledger     store
	ledgerURL  string
	out        func(ctx context.Context, e event.Event) error // where events go besides the spool; nil: nowhere
	bus        *bus.Bus                                       // the spool; nil: there is none
	webhooks   *bus.Webhooks                                  // of bus; nil if events go elsewhere
	reports    *serving.Reports
	metrics    *observe.Metrics
	traces     *serving.Traces
	console    *console.Console     // nil: there is no page
	topic      *buspubsub.Publisher // nil unless they go to Pub/Sub
	launcher   dispatch.Launcher
	local      *launch.Launcher                                             // the launcher of child processes; nil on a cluster
	load       observe.Load                                                 // how many builds wait and run, as far as this process knows
	glance     func(ctx context.Context, id string) (dispatch.State, error) // where a build stands, for people; nil: nobody knows
	logs       buildlog.Logs                                                // what executors say; nil: kept elsewhere
	follow     func(ctx context.Context) error                              // follows builds to their end
	elect      func(context.Context, func(context.Context) error) error     // nil: this process alone follows and sweeps
	results    http.Handler                                                 // where executors put results; nil: nowhere
	dispatcher *dispatch.Dispatcher
	retain     func(context.Context) error // removes what is old
	pulls      []puller
	closers    []io.Closer // of pulls and logs

	repositories *gitremote.Client
}

// open opens everything that the configuration names. ctx must live as long as
// the service.
func open(ctx context.Context, cfg config) (*service, error) {
	if err := checkListen(cfg); err != nil {
		return nil, err
	}
	s := &service{cfg: cfg}
	for _, step := range []func(context.Context) error{s.openLedger, s.openBus, s.openBuilds, s.openConsole, s.openRetention, s.openPulls} {
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
	if len(cfg.secrets.Tokens) == 0 && cfg.clouds.oidc.Audience == "" && cfg.cluster.oidc.Audience == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--listen %s can be reached from elsewhere: give --token-file, --oidc-audience or --cluster-audience, or listen on 127.0.0.1", cfg.listen)
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
		Ledger: s.ledger, Publish: s.publish, CheckDigest: client.CheckDigest, MoveTags: client.MoveTags, PushIndex: client.PushIndex,
		Stop: func(ctx context.Context, id string) error { return s.launcher.Cancel(ctx, id) },
		Now:  s.cfg.now, Log: s.cfg.log,
	})
	if err != nil {
		return err
	}
	if err := s.openLauncher(ctx, finisher); err != nil {
		return err
	}
	identity, err := s.cfg.identity(ctx)
	if err != nil {
		return err
	}
	s.metrics = observe.NewMetrics("dispatcher", s.load)
	if s.traces, err = serving.OpenTraces(ctx, s.bus, s.ledger, s.logs, s.cfg.traces, s.cfg.log); err != nil {
		return err
	}
	if s.reports, err = serving.OpenReports(s.bus, s.ledger, s.cfg.reports, s.cfg.triggers, s.cfg.now, s.cfg.log); err != nil {
		return err
	}
	s.repositories = gitremote.New(gitremote.Config{Dir: filepath.Join(s.cfg.data, "mirrors"), Env: s.cfg.executorEnv})
	s.dispatcher, err = dispatch.New(dispatch.Config{
		Ledger: s.ledger, Triggers: s.cfg.triggers, Launcher: s.launcher, Publish: s.publish,
		Install: s.cfg.install, ResolveRef: s.resolveRef, Repositories: s.repositories, Finisher: finisher,
		GitHubSecrets: s.cfg.secrets.GitHub, GitLabSecrets: s.cfg.secrets.GitLab,
		GiteaSecrets: s.cfg.secrets.Gitea, Bitbucket: s.cfg.secrets.Bitbucket, Tokens: s.cfg.secrets.Tokens, Identity: identity,
		Describe: s.describe, ServeLog: s.serveLog(), MaxInFlight: s.cfg.inFlight, Now: s.cfg.now, Log: s.cfg.log,
	})
	return err
}

// describe says of a build that has not ended where it stands.
func (s *service) describe(ctx context.Context, b *dispatch.Build) error {
	if b.State != dispatch.BuildPending {
		return nil
	}
	if st, ok := s.state(ctx, b.ID); ok {
		b.State, b.Position = st.Name, st.Position
		b.Request.Attempt = max(b.Request.Attempt, st.Attempt)
	}
	return nil
}

// state is where a build stands that has not ended: one for several platforms runs if
// one of them does.
func (s *service) state(ctx context.Context, id string) (console.State, bool) {
	switch {
	case s.local != nil:
		st, ok := s.local.Status(id)
		return console.State{Name: string(st.State), Position: st.Position, Attempt: st.Attempt}, ok
	case s.glance == nil:
		return console.State{}, false
	}
	ids := []string{id}
	var req events.Request
	if _, err := record.Load(ctx, s.ledger, record.RequestKey(id), &req); err == nil && len(req.Platforms) > 0 {
		ids = nil
		for _, part := range req.Parts() {
			ids = append(ids, part.BuildID)
		}
	}
	found := console.State{}
	for _, id := range ids {
		switch st, err := s.glance(ctx, id); {
		case err != nil:
			s.cfg.log.Warn("look where a build stands", "build", id, "err", err)
		case st == dispatch.StateRunning:
			return console.State{Name: string(launch.Running)}, true
		case st == dispatch.StatePending:
			found.Name = string(launch.Queued)
		}
	}
	return found, found.Name != ""
}

// serveLog serves logs, if they are kept.
func (s *service) serveLog() func(http.ResponseWriter, *http.Request, string) {
	if s.logs == nil {
		return nil
	}
	return buildlog.Server{Logs: s.logs, Over: s.over, Pause: time.Second, Log: s.cfg.log}.Serve
}

// over says whether a build has its outcome and, of this machine's, no executor.
func (s *service) over(ctx context.Context, id string, _ bool) (bool, error) {
	if s.local != nil {
		if _, live := s.local.Status(id); live {
			return false, nil
		}
	}
	var claim record.Claim
	_, err := record.Load(ctx, s.ledger, record.ResultKey(id), &claim)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
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
	if err := s.send(ctx, e); err != nil {
		return err
	}
	if s.console != nil {
		s.console.Note(e)
	}
	if !s.cfg.clouds.cdevents {
		return nil
	}
	mirrored, err := cdevents.Mirror(e)
	if err != nil {
		return err
	}
	for _, m := range mirrored {
		if err := s.send(ctx, m); err != nil {
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

// resolveRef asks a repository where a ref is.
func (s *service) resolveRef(ctx context.Context, c events.Change) (string, error) {
	return s.repositories.Head(ctx, c.Location, c.Name)
}

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
	group.Go(func() error { return serving.HTTP(running, l, s.handler(), s.cfg.log) })
	if s.webhooks != nil {
		group.Go(func() error { return s.webhooks.Run(running) })
	}
	group.Go(func() error { return s.reports.Run(running) })
	if s.console != nil {
		group.Go(func() error { return s.console.Run(running) })
	}
	group.Go(func() error { return s.traces.Run(running) })
	for _, pull := range s.pulls {
		group.Go(func() error { return pull(running) })
	}
	group.Go(func() error { return s.lead(running) })
	err = group.Wait()
	if ctx.Err() != nil {
		err = nil // it was asked to end
	}
	return errors.Join(err, s.close())
}

// sweep sweeps, and counts it.
func (s *service) sweep(ctx context.Context) error {
	err := s.dispatcher.Sweep(ctx)
	s.metrics.Swept(s.cfg.now(), err)
	return err
}

// lead follows builds and sweeps, if no other dispatcher does.
func (s *service) lead(ctx context.Context) error {
	work := func(ctx context.Context) error {
		group, running := errgroup.WithContext(ctx)
		group.Go(func() error { return s.follow(running) })
		group.Go(func() error { return serving.Every(running, s.cfg.sweep, "sweep", s.cfg.log, s.sweep) })
		group.Go(func() error {
			return serving.Every(running, retainEvery, "remove what is old", s.cfg.log, s.retain)
		})
		return group.Wait()
	}
	if s.elect == nil {
		return work(ctx)
	}
	return s.elect(ctx, work)
}

// handler is all doors.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	if s.console != nil {
		mux.Handle("/", s.console.Handler())
	}
	doors := s.metrics.Doors(dispatch.Doors(), s.cfg.now, s.dispatcher.Handler())
	mux.Handle("GET /metrics", s.guarded(s.metrics.Handler()))
	mux.Handle("/hooks/", doors)
	mux.Handle(dispatch.DoorEvents, doors)
	mux.Handle(dispatch.APIPrefix, doors)
	mux.Handle(dispatch.LogPattern, s.dispatcher.Handler()) // lasts as long as a build, which says nothing of doors
	if s.results != nil {
		mux.Handle(finish.GatewayPath, s.results)
	}
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
		if len(s.cfg.secrets.Tokens) > 0 && source.VerifyBearer(s.cfg.secrets.Tokens, r.Header) != nil && (s.console == nil || !s.console.Admits(r)) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, source.ErrUnauthorised.Error(), http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}
