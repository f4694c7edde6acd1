package local

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/infra/console"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/bucket"
)

// ErrNoToken means that a stack would let everybody in who reaches it.
var ErrNoToken = errors.New("it can be reached from elsewhere and there is no token")

// checkListen refuses to serve others than this machine without a token.
func (s *Stack) checkListen() error {
	for _, l := range []net.Listener{s.http, s.s3} {
		if !loopback(l) && len(s.cfg.Secrets.Tokens) == 0 {
			return fmt.Errorf("listen on %s: %w: give --token-file or KILN_TOKEN, or listen on 127.0.0.1", l.Addr(), ErrNoToken)
		}
	}
	return nil
}

func loopback(l net.Listener) bool {
	a, ok := l.Addr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// pageTokens are the tokens that one must have for the page and the doors that have
// no check of their own; none while only this machine reaches them.
func (s *Stack) pageTokens() []string {
	if loopback(s.http) {
		return nil
	}
	return s.cfg.Secrets.Tokens
}

// openConsole prepares the page.
func (s *Stack) openConsole(context.Context) (err error) {
	if err := s.checkListen(); err != nil {
		return err
	}
	s.console, err = console.New(console.Config{
		Ledger: s.ledger, Logs: logs{s}, State: s.consoleState, Actions: actions{s}, Submit: s.submit, Event: s.consoleEvent, Image: s.client.Image,
		Doors: []string{
			"kiln submit ./app",
			"tar -czf - -C ./app . | curl -T - " + s.URL() + "/contexts/app/context.tar.gz",
			"aws s3 cp context.tar.gz s3://contexts/app/context.tar.gz --endpoint-url " + s.S3URL(),
			"git push " + s.URL() + "/git/app.git HEAD:main",
		},
		Tokens: s.pageTokens(), Hosts: s.cfg.Hosts, MaxUpload: s.cfg.MaxUpload, Now: s.cfg.Now, Log: s.cfg.Log,
	})
	return err
}

// logs are those of the launcher, which is opened after the page.
type logs struct{ s *Stack }

// Log implements console.Logs.
func (l logs) Log(ctx context.Context, id string, offset int64, follow bool, emit func(lines []byte) error) (int64, error) {
	return l.s.launcher.Log(ctx, id, offset, follow, emit)
}

func (s *Stack) consoleState(_ context.Context, id string) (console.State, bool) {
	st, ok := s.launcher.Status(id)
	return console.State{Name: string(st.State), Position: st.Position, Attempt: st.Attempt}, ok
}

func (s *Stack) consoleEvent(_ context.Context, id string) ([]byte, error) {
	raw, err := s.finishedEvent(id)
	if err != nil || raw == nil {
		return nil, err
	}
	return *raw, nil
}

// actions are what people do to builds.
type actions struct{ s *Stack }

// Cancel implements console.Actions.
func (a actions) Cancel(ctx context.Context, id, reason string) error {
	return a.s.dispatcher.Cancel(ctx, id, reason)
}

// Rebuild implements console.Actions.
func (a actions) Rebuild(ctx context.Context, id, cause string) (string, error) {
	decision, err := a.s.dispatcher.Rebuild(ctx, id, cause)
	if err == nil && decision.Status == dispatch.StatusIgnored {
		err = errors.New(decision.Reason)
	}
	return decision.BuildID, err
}

// metaTag is the metadata of an upload that the built-in trigger makes a tag of.
const metaTag = "tag"

// submit stores an upload of the page and returns the build that it started.
func (s *Stack) submit(ctx context.Context, u console.Upload) (string, error) {
	meta := map[string]string{}
	if u.Trigger != "" {
		meta[trigger.MetaTrigger] = u.Trigger
	}
	if u.Tag != "" {
		meta[metaTag] = u.Tag
	}
	name := u.Name + "/context.tar.gz"
	obj, err := s.bucket.Put(ctx, bucket.Contexts, name, u.Content, bucket.PutOptions{Unsized: true, Metadata: meta})
	if err != nil {
		return "", err
	}
	l, err := s.list(ctx, "", 1, maxScan, func(b api.Build) bool {
		return b.Request.Change.Name == name && b.Request.Change.Generation == obj.Generation
	})
	if err != nil {
		return "", err
	}
	if len(l.Builds) == 0 {
		return "", fmt.Errorf("%s is stored, but no trigger is for it", name)
	}
	return l.Builds[0].ID, nil
}
