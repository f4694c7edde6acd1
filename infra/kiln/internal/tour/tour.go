// Package tour sends an app through both doors of a stack, follows the builds
// and pulls the images back, to show a person that it all works.
package tour

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/kiln/internal/client"
	"github.com/kilnhook/kiln/infra/kiln/internal/pack"
	"github.com/kilnhook/kiln/infra/kiln/internal/show"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/buildlog"
	"github.com/kilnhook/kiln/infra/local/registry"
	"github.com/kilnhook/kiln/infra/wait"
)

// Tour is one app on its way through a stack.
type Tour struct {
	Client   *client.Client
	Registry registry.Client
	Screen   *show.Screen
	Dir      string   // the app: a directory with a Dockerfile
	Name     string   // of the app; it names object, repository and image
	Env      []string // of git: PATH and proxies
	// Report is told of every finished build; nil tells nobody.
	Report func(api.Build, registry.Pulled) error
}

// errFailed says that at least one build did not succeed; everything about it
// was shown.
var errFailed = errors.New("the example did not build")

// Run sends the app through both doors. The error says that something failed;
// the other door is tried all the same.
func (t *Tour) Run(ctx context.Context) error {
	return errors.Join(t.through(ctx, "the bucket", t.upload), t.through(ctx, "git", t.push))
}

// through opens one door and follows what comes of it.
func (t *Tour) through(ctx context.Context, door string, open func(context.Context) (name, revision string, err error)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t.Screen.Line("")
	t.Screen.Line("== %s through %s", t.Name, door)
	name, revision, err := open(ctx)
	if err != nil {
		return fmt.Errorf("send the example through %s: %w", door, err)
	}
	builds, err := t.Client.BuildsOf(ctx, name, revision)
	if err != nil {
		return err
	}
	if len(builds) == 0 {
		return fmt.Errorf("send the example through %s: no trigger is for %s", door, name)
	}
	var errs []error
	for _, b := range builds {
		errs = append(errs, t.follow(ctx, b.ID))
	}
	return errors.Join(errs...)
}

// upload puts the app into the bucket as a tar.gz.
func (t *Tour) upload(ctx context.Context) (name, revision string, err error) {
	files, err := pack.Scan(ctx, t.Dir, "")
	if err != nil {
		return "", "", err
	}
	t.Screen.Line("PUT %s/contexts/%s/context.tar.gz", t.Client.URL, t.Name)
	obj, err := t.Client.Upload(ctx, t.Name+"/context.tar.gz", nil, func(w io.Writer) error {
		return files.Write(ctx, w, func(n int64) { t.Screen.Bar("sending", n, files.Bytes) })
	})
	t.Screen.Clear()
	return obj.Name, obj.Generation, err
}

// push commits the app in a temporary clone and pushes it.
func (t *Tour) push(ctx context.Context) (name, revision string, err error) {
	dir, err := os.MkdirTemp("", "kiln-example-")
	if err != nil {
		return "", "", fmt.Errorf("make a clone: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	url := t.Client.URL + "/git/" + t.Name + ".git"
	work := filepath.Join(dir, "clone")
	if _, err := t.git(ctx, dir, "clone", "--quiet", url, work); err != nil {
		// The first push makes the repository; until then there is nothing to clone.
		if _, err := t.git(ctx, dir, "init", "--quiet", "--initial-branch=main", work); err != nil {
			return "", "", err
		}
	}
	if err := t.replace(work); err != nil {
		return "", "", fmt.Errorf("fill the clone: %w", err)
	}
	steps := [][]string{
		{"checkout", "--quiet", "-B", "main"}, {"add", "--all", "--force"},
		{"commit", "--quiet", "--allow-empty", "--message", "example: another look at it"},
	}
	for _, args := range steps {
		if _, err := t.git(ctx, work, args...); err != nil {
			return "", "", err
		}
	}
	t.Screen.Line("git push %s main", url)
	said, err := t.git(ctx, work, "push", url, "main")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(said) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "remote: "); ok {
			t.Screen.Line("%s", buildlog.Clean(text))
		}
	}
	head, err := t.git(ctx, work, "rev-parse", "HEAD")
	return "refs/heads/main", strings.TrimSpace(head), err
}

// replace makes the clone hold the app and nothing else.
func (t *Tour) replace(work string) error {
	entries, err := os.ReadDir(work)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == ".git" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(work, e.Name())); err != nil {
			return err
		}
	}
	return os.CopyFS(work, os.DirFS(t.Dir))
}

// git runs git as nobody in particular, with nobody's configuration.
func (t *Tour) git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append([]string{
		"HOME=" + dir, "LC_ALL=C.UTF-8", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=kiln", "GIT_AUTHOR_EMAIL=kiln@localhost", "GIT_COMMITTER_NAME=kiln", "GIT_COMMITTER_EMAIL=kiln@localhost",
	}, t.Env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// follow shows one build to its end, its event, and the image pulled back.
func (t *Tour) follow(ctx context.Context, id string) error {
	t.Screen.Line("build %s  %s/builds/%s", buildlog.Short(id), t.Client.URL, id)
	log, err := show.NewLog(t.Screen, "plain") // beside what the stack itself says
	if err != nil {
		return err
	}
	if err := errors.Join(t.Client.Log(ctx, id, true, log.Add), log.Close()); err != nil {
		return err
	}
	b, err := t.finished(ctx, id)
	if err != nil {
		return err
	}
	show.Verdict(t.Screen, b)
	if b.Event != nil {
		var text bytes.Buffer
		if err := json.Indent(&text, *b.Event, "", "  "); err != nil {
			return fmt.Errorf("read event of build %s: %w", id, err)
		}
		t.Screen.Line("%s", text.String())
	}
	var pulled registry.Pulled
	if b.Result.Outcome == events.OutcomeSuccess && b.Request.Image != "" {
		if pulled, err = t.Registry.Pull(ctx, b.Request.Image+"@"+b.Result.Digest); err != nil {
			return err
		}
		t.Screen.Line("pulled back by digest: %d layers, %s, every digest verified", pulled.Layers, buildlog.Bytes(pulled.Bytes))
	}
	if t.Report != nil {
		if err := t.Report(b, pulled); err != nil {
			return err
		}
	}
	if b.Result.Outcome != events.OutcomeSuccess {
		return errFailed
	}
	return t.Screen.Err()
}

// finished waits until the build's event is there.
func (t *Tour) finished(ctx context.Context, id string) (api.Build, error) {
	for {
		b, err := t.Client.Build(ctx, id)
		if err != nil || b.Finished() && b.Event != nil {
			return b, err
		}
		if err := wait.For(ctx, 100*time.Millisecond); err != nil {
			return b, err
		}
	}
}
