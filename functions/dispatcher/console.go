package main

import (
	"context"
	"errors"

	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/infra/console"
	"github.com/kilnhook/kiln/infra/local/registry"
)

// openConsole prepares the page. There is none if others than this machine are let in
// by OIDC alone, which browsers have not.
func (s *service) openConsole(context.Context) (err error) {
	if len(s.cfg.secrets.Tokens) == 0 && s.cfg.clouds.oidc.Audience != "" {
		s.cfg.log.Info("there is no page, because there is no token to see it with: give --token-file")
		return nil
	}
	cfg := console.Config{
		Ledger: s.ledger, Actions: actions{s.dispatcher}, Image: registry.Client{Plain: s.cfg.insecureRegistries}.Image,
		Tokens: s.cfg.secrets.Tokens, Now: s.cfg.now, Log: s.cfg.log,
	}
	if s.logs != nil {
		cfg.Logs = s.logs
	} else {
		cfg.LogsElsewhere = func(string) string {
			return "Its log is its pod's, and not kept: the dispatcher was not told of a namespace (--namespace)."
		}
	}
	cfg.State = s.state
	s.console, err = console.New(cfg)
	return err
}

// actions are what people do to builds.
type actions struct{ d *dispatch.Dispatcher }

// Cancel implements console.Actions.
func (a actions) Cancel(ctx context.Context, id, reason string) error {
	return a.d.Cancel(ctx, id, reason)
}

// Rebuild implements console.Actions.
func (a actions) Rebuild(ctx context.Context, id, cause string) (string, error) {
	decision, err := a.d.Rebuild(ctx, id, cause)
	if err == nil && decision.Status == dispatch.StatusIgnored {
		err = errors.New(decision.Reason)
	}
	return decision.BuildID, err
}
