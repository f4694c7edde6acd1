package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/durable"
	"github.com/kilnhook/kiln/infra/local/launch"
)

// findBuild completes an abbreviated build id. The error wraps fs.ErrNotExist
// if no build begins so.
func (s *Stack) findBuild(ctx context.Context, abbreviated string) (string, error) {
	id, err := record.Find(ctx, s.ledger, abbreviated)
	if wrong, ok := errors.AsType[*record.AbbreviationError](err); ok {
		return "", &badRequestError{wrong.Error()}
	}
	if err != nil {
		return "", err
	}
	if _, _, err := s.ledger.Get(ctx, record.RequestKey(id)); err != nil {
		return "", fmt.Errorf("no build %s: %w", id, err)
	}
	return id, nil
}

// build describes a build by its whole id.
func (s *Stack) build(ctx context.Context, id string) (api.Build, error) {
	b := api.Build{ID: id, State: api.StatePending}
	if _, err := record.Load(ctx, s.ledger, record.RequestKey(id), &b.Request); err != nil {
		return b, fmt.Errorf("read build %s: %w", id, err)
	}
	var claim record.Claim
	_, err := record.Load(ctx, s.ledger, record.ResultKey(id), &claim)
	switch {
	case err == nil:
		b.State, b.Result = api.StateFinished, &claim.Result
	case !errors.Is(err, fs.ErrNotExist):
		return b, fmt.Errorf("read build %s: %w", id, err)
	}
	if st, ok := s.launcher.Status(id); ok {
		b.Request.Attempt = max(b.Request.Attempt, st.Attempt)
		if b.Result == nil || st.State == launch.Finishing {
			// Claimed, but not told and tagged yet: it has not finished.
			b.State, b.Position, b.Since = string(st.State), st.Position, st.Since
		}
	}
	if b.State != api.StateFinished {
		b.Result = nil
	}
	return b, nil
}

// list lists builds, newest first, from the place after on, that keep says are
// wanted. It looks through at most scan builds.
func (s *Stack) list(ctx context.Context, after string, limit, scan int, keep func(api.Build) bool) (api.List, error) {
	l := api.List{Builds: []api.Build{}}
	if after != "" {
		after = record.IndexPrefix + after
	}
	for scan > 0 {
		keys, err := s.ledger.List(ctx, record.IndexPrefix, after, min(scan, 200))
		if err != nil {
			return l, fmt.Errorf("list builds: %w", err)
		}
		for i, key := range keys {
			after, scan = key, scan-1
			b, err := s.build(ctx, record.IndexBuildID(key))
			if errors.Is(err, fs.ErrNotExist) {
				continue // noted, but not requested yet
			}
			if err != nil {
				return l, err
			}
			if !keep(b) {
				continue
			}
			if l.Builds = append(l.Builds, b); len(l.Builds) == limit {
				if i < len(keys)-1 || len(keys) == 200 {
					l.Next = strings.TrimPrefix(after, record.IndexPrefix)
				}
				return l, nil
			}
		}
		if len(keys) < 200 {
			break
		}
	}
	return l, nil
}

func (s *Stack) eventPath(id string) string { return s.path("builds", id, "event.json") }

// keepEvent keeps the terminal event of a build beside its log.
func (s *Stack) keepEvent(e event.Event) error {
	id, ok := strings.CutSuffix(e.ID(), ".finished")
	if !ok || !events.IsBuildID(id) {
		return fmt.Errorf("keep event %s: it is not about a build", e.ID())
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("keep event %s: %w", e.ID(), err)
	}
	if err := os.MkdirAll(s.path("builds", id), 0o700); err != nil {
		return fmt.Errorf("keep event %s: %w", e.ID(), err)
	}
	return durable.WriteFile(s.eventPath(id), data, 0o600)
}

// finishedEvent is the terminal event of a build; nil if there is none yet.
func (s *Stack) finishedEvent(id string) (*json.RawMessage, error) {
	data, err := os.ReadFile(s.eventPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read event of build %s: %w", id, err)
	}
	raw := json.RawMessage(data)
	return &raw, nil
}
