// Package scenario is what must hold of Kiln wherever it runs, one machine or a
// cluster: stories of pushes, told through its public doors with real builds, and
// what subscribers and registries must have seen in the end.
package scenario

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source/git"
	"github.com/kilnhook/kiln/functions/dispatch"
)

// World is a running Kiln, which builds the branches of every repository and
// gives images the branch's name as a tag.
type World struct {
	URL   string // of the dispatcher
	Token string // that opens its doors; "" if there is none

	Root       string                         // directory of bare repositories that are served over HTTP
	Repository func(name string) string       // URL of one of them, as dispatcher and executors see it
	Image      func(repository string) string // where its builds are pushed to
	Finished   func() []event.Event           // every build.finished event so far
	Limit      time.Duration                  // how long a build may take
}

// All runs every scenario. base is an image that builds can pull and that has a
// shell.
func All(t *testing.T, w World, base string) {
	for name, scenario := range map[string]func(*testing.T, *story){
		"a hundred deliveries at once are one build": hundred,
		"c, b, a: only c is tagged":                  reversed,
		"a, b, a, b: two builds":                     transitions,
		"a push supersedes the build before":         superseded,
		"a cancelled build ends once":                cancelled,
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, &story{World: w, base: base, name: "s" + strings.Map(letters, name)})
		})
	}
}

// letters keeps what may be in the name of a repository.
func letters(r rune) rune {
	if r >= 'a' && r <= 'z' {
		return r
	}
	return -1
}

// story is a scenario on a repository of its own.
type story struct {
	World
	base, name string
	began      time.Time
	sent       int
}

// commits makes a repository with a commit for each Dockerfile and returns their
// ids. The branch is at the last.
func (s *story) commits(t *testing.T, steps ...string) []string {
	t.Helper()
	s.began = time.Now().Add(-time.Hour).UTC()
	dir, bare := t.TempDir(), filepath.Join(s.Root, s.name+".git")
	run(t, dir, "git", "init", "-q", "--bare", bare)
	run(t, dir, "git", "init", "-q", "-b", "main")
	var ids []string
	for i, step := range steps {
		text := fmt.Sprintf("FROM %s\nENV COMMIT=%d\n%s\n", s.base, i, step)
		check(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644))
		run(t, dir, "git", "add", ".")
		run(t, dir, "git", "commit", "-qm", fmt.Sprint(i))
		ids = append(ids, run(t, dir, "git", "rev-parse", "HEAD"))
	}
	run(t, dir, "git", "push", "-q", bare, "main")
	return ids
}

// none is where a branch was before there was one.
const none = "0000000000000000000000000000000000000000"

// deliver tells the dispatcher that the branch went from one commit to another,
// seconds after the first push, and returns what it decided. It may be called
// from several goroutines; the error is for the caller to report.
func (s *story) deliver(before, after string, second int) (dispatch.Decision, error) {
	body := before + " " + after + " refs/heads/main\n"
	req, err := http.NewRequest(http.MethodPost, s.URL+"/hooks/git", strings.NewReader(body))
	if err != nil {
		return dispatch.Decision{}, err
	}
	req.Header.Set("Content-Type", "text/plain")
	req.Header.Set(git.HeaderRepository, s.Repository(s.name+".git"))
	req.Header.Set(git.HeaderTime, s.began.Add(time.Duration(second)*time.Second).Format(time.RFC3339))
	var answer struct{ Builds []dispatch.Decision }
	if err := s.do(req, &answer); err != nil {
		return dispatch.Decision{}, err
	}
	if len(answer.Builds) != 1 {
		return dispatch.Decision{}, fmt.Errorf("%d decisions, want one", len(answer.Builds))
	}
	return answer.Builds[0], nil
}

// do sends a request until the dispatcher takes it.
func (s *story) do(req *http.Request, answer any) error {
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
	}
	for tries := 0; ; tries++ {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
		switch {
		case resp.StatusCode/100 == 2:
			return json.Unmarshal(body, answer)
		case resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable || tries == 10:
			return fmt.Errorf("%s: %s", resp.Status, body)
		}
		time.Sleep(time.Second)
		if req.GetBody != nil {
			if req.Body, err = req.GetBody(); err != nil {
				return err
			}
		}
	}
}

// must is deliver where nothing else happens at the same time.
func (s *story) must(t *testing.T, before, after string, second int) dispatch.Decision {
	t.Helper()
	d, err := s.deliver(before, after, second)
	check(t, err)
	return d
}

// ends waits for a build's end and returns its data.
func (s *story) ends(t *testing.T, buildID string) events.Finished {
	t.Helper()
	for deadline := time.Now().Add(s.Limit); ; time.Sleep(100 * time.Millisecond) {
		for _, e := range s.Finished() {
			if e.ID() == events.FinishedID(buildID) {
				var data events.Finished
				check(t, e.DataAs(&data))
				return data
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("build %s has not ended within %s", buildID, s.Limit)
		}
	}
}

// ended are the ids of the ended builds of the story, each once.
func (s *story) ended(t *testing.T) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	for _, e := range s.Finished() {
		var data events.Finished
		check(t, e.DataAs(&data))
		if data.Image.Repository == s.Image(s.name) {
			ids[e.ID()] = true
		}
	}
	return ids
}

// tagged returns the digest that the branch's tag names.
func (s *story) tagged(t *testing.T) string {
	t.Helper()
	ref, err := name.ParseReference(s.Image(s.name)+":main", name.Insecure)
	check(t, err)
	d, err := remote.Head(ref)
	check(t, err)
	return d.Digest.String()
}

// succeeds waits for a build's success and returns its digest.
func (s *story) succeeds(t *testing.T, buildID string) string {
	t.Helper()
	data := s.ends(t, buildID)
	if data.Outcome != events.OutcomeSuccess || !events.IsDigest(data.Image.Digest) {
		t.Fatalf("build %s: %+v", buildID, data)
	}
	return data.Image.Digest
}

func run(t *testing.T, dir, command string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com",
		"GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com", "GIT_TERMINAL_PROMPT=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
	return string(bytes.TrimSpace(out))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
