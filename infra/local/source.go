package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/infra/local/buildlog"
	"github.com/kilnhook/kiln/infra/local/gitd"
)

// onObject tells the dispatcher of an upload.
func (s *Stack) onObject(ctx context.Context, c events.Change) error {
	_, err := s.handle(ctx, c)
	return err
}

// handle dispatches a change. One that no repetition can mend is logged and
// let go: keeping it would only mean to fail again.
func (s *Stack) handle(ctx context.Context, c events.Change) ([]dispatch.Decision, error) {
	decisions, err := s.dispatcher.Handle(ctx, c)
	if _, malformed := errors.AsType[*source.MalformedError](err); malformed {
		s.cfg.Log.Error("change cannot be dispatched", "location", c.Location, "name", c.Name, "err", err)
		return nil, nil
	}
	return decisions, err
}

// onPush tells the dispatcher of a moved ref; the lines are for the pusher.
func (s *Stack) onPush(ctx context.Context, c events.Change) ([]string, error) {
	decisions, err := s.handle(ctx, c)
	if err != nil {
		return nil, err
	}
	return tellPusher(c, decisions), nil
}

func tellPusher(c events.Change, decisions []dispatch.Decision) []string {
	if c.Deleted() {
		return nil
	}
	var lines []string
	for _, d := range decisions {
		switch d.Status {
		case dispatch.StatusNew:
			lines = append(lines, fmt.Sprintf("kiln: build %s started, follow with: kiln logs -f %s", d.BuildID, buildlog.Short(d.BuildID)))
		case dispatch.StatusDuplicate:
			lines = append(lines, fmt.Sprintf("kiln: build %s was started before, see: kiln logs -f %s", d.BuildID, buildlog.Short(d.BuildID)))
		default:
			lines = append(lines, fmt.Sprintf("kiln: %s is not built: %s", c.Name, d.Reason))
		}
	}
	if len(lines) == 0 {
		lines = append(lines, "kiln: no trigger is for "+c.Name)
	}
	return lines
}

// contextOf is where an executor gets the files of a change. Objects of our
// bucket are files that never change; a repository is fetched at its commit.
func (s *Stack) contextOf(c events.Change) (string, error) {
	if c.Kind == events.KindGit {
		if strings.ContainsRune(c.Name, '#') {
			return "", fmt.Errorf("ref %s cannot be fetched: the address of a context has '#' before the ref", c.Name)
		}
		at := c.Location
		if repo, ok := gitd.RepoAt(c.Location); ok {
			at = s.Registry() + "/git/" + repo
		}
		return "git://" + at + ".git#" + c.Name + "#" + c.Revision(), nil
	}
	bucketName, ok := strings.CutPrefix(c.Location, "kiln://")
	if !ok {
		return c.Location + "/" + c.Name, nil
	}
	path, err := s.bucket.Path(bucketName, c.Name, c.Generation)
	if err != nil {
		return "", err
	}
	return "tar://" + path, nil
}

// executorContext is contextOf now: the stack may listen elsewhere than when
// the build was requested, or be in another directory.
func (s *Stack) executorContext(_ context.Context, req events.Request) (from string, env []string, err error) {
	from, err = s.contextOf(req.Change)
	if err != nil {
		return "", nil, fmt.Errorf("find the files to build: %w", err)
	}
	if _, ours := gitd.RepoAt(req.Change.Location); ours && req.Change.Kind == events.KindGit {
		env = append(env, "GIT_PULL_METHOD=http") // to ourselves, without TLS
	}
	return from, env, nil
}

// executorFlags are the flags that every executor of this stack gets.
func (s *Stack) executorFlags(ctx context.Context, _ events.Request, say func(string)) ([]string, error) {
	flags := []string{"--isolation", s.cfg.Isolation, "--insecure-registry", s.Registry()}
	bases, err := s.bases.Flags(ctx, say)
	if err != nil {
		return nil, err
	}
	return append(append(flags, bases...), s.cfg.ExecutorArgs...), nil
}

// PrepareBases decides where base images come from, now instead of when the
// first build asks. say tells a person what takes time.
func (s *Stack) PrepareBases(ctx context.Context, say func(string)) error {
	_, err := s.bases.Flags(ctx, say)
	return err
}

// resolveRef says where a ref stands now; "" if it is gone.
func (s *Stack) resolveRef(ctx context.Context, c events.Change) (string, error) {
	if repo, ok := gitd.RepoAt(c.Location); ok {
		id, _, err := s.git.Resolve(ctx, repo, c.Name)
		return id, err
	}
	return s.repositories.Head(ctx, c.Location, c.Name)
}

// repositoryURL is where a repository can be fetched from: one of our own is a
// directory.
func (s *Stack) repositoryURL(location string) (string, error) {
	if repo, ok := gitd.RepoAt(location); ok {
		return "file://" + s.git.Path(repo), nil
	}
	host, _, _ := strings.Cut(location, "/")
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if net.ParseIP(strings.Trim(host, "[]")) != nil {
		return "", errors.New("the repository's host is a bare address")
	}
	return "https://" + location + ".git", nil
}
