// Package scenario is what must hold of Kiln wherever it runs, one machine or a
// cluster: stories of pushes and uploads, told through its public doors with real
// builds, and what subscribers and registries must have seen in the end.
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
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source/git"
	"github.com/kilnhook/kiln/functions/dispatch"
)

// World is a running Kiln with the triggers of Triggers and the secrets of Secrets.
type World struct {
	URL   string // of the dispatcher
	Token string // that opens its doors; "" if there is none

	Root       string                                                 // directory of bare repositories that are served over HTTP
	Repository func(name string) string                               // URL of one of them, as dispatcher and executors see it
	Upload     func(t *testing.T, bucket, object string, body []byte) // stores an object, of which the dispatcher is told
	Image      func(name string) string                               // where what is built of a repository or an object is pushed
	Finished   func() []event.Event                                   // every build.finished event so far
	Deaf       func(bool)                                             // says whether the subscriber refuses events for now
	Restart    func(t *testing.T)                                     // kills the dispatcher, without a warning, and waits until the next one serves
	Limit      time.Duration                                          // how long a build may take
}

// Buckets are the ones that Triggers are about.
func Buckets() []string { return []string{"contexts", "hasty", "platforms"} }

// hastyTime is how long a build of the bucket "hasty" may take.
const hastyTime = 6 * time.Second

// Triggers are what a world builds: the branches of every repository and what is
// uploaded, as YAML, items of a list.
func Triggers(registry string) string {
	text := `
  - name: upload
    on: {object: {bucket: s3://contexts, suffix: .tar.gz}}
    push: {image: "REGISTRY/built/{{ .Object.Stem | slug }}", tags: [main]}
    run: {timeout: 2m}
  - name: push
    on: {git: {repo: "**"}}
    push: {image: "REGISTRY/built/{{ .Repo.Name | slug }}", tags: ["{{ .Ref.Slug }}"]}
    run: {timeout: 2m}
  - name: hasty
    on: {object: {bucket: s3://hasty, suffix: .tar.gz}}
    push: {image: "REGISTRY/built/{{ .Object.Stem | slug }}", tags: [main]}
    run: {timeout: TIME}
  - name: platforms
    on: {object: {bucket: s3://platforms, suffix: .tar.gz}}
    build: {platforms: [linux/amd64, linux/arm64]}
    push: {image: "REGISTRY/built/{{ .Object.Stem | slug }}", tags: [main]}
    run: {timeout: 2m}
`
	return strings.NewReplacer("REGISTRY", registry, "TIME", hastyTime.String()).Replace(text)
}

// What hooks are verified with.
const (
	githubSecret  = "what-github-knows"
	gitlabToken   = "what-gitlab-says"
	gitlabSigning = "whsec_Z2l0bGFiLXNpZ25zLXdpdGgtdGhpcw==" // of the key "gitlab-signs-with-this"
	gitlabKey     = "gitlab-signs-with-this"
)

// Secrets are variables of the dispatcher's environment.
func Secrets() map[string]string {
	return map[string]string{"KILN_GITHUB_SECRET": githubSecret, "KILN_GITLAB_SECRET": gitlabToken + "\n" + gitlabSigning}
}

// tale is a scenario and how many builds end in it.
type tale struct {
	name   string
	builds int
	tell   func(*testing.T, *story)
}

func tales() []tale {
	return []tale{
		{"a hundred deliveries at once are one build", 1, hundred},
		{"c, b, a: only c is tagged", 2, reversed},
		{"a, b, a, b: two builds", 4, transitions},
		{"a push supersedes the build before", 2, superseded},
		{"a cancelled build ends once", 1, cancelled},
		{"a build again is one build more", 2, rebuilt},
		{"an empty object and then the real one are one build", 1, emptyFirst},
		{"an object that is replaced is built again", 2, replaced},
		{"several platforms are one build", 1, platforms},
		{"a RUN fails", 1, failing},
		{"a build takes too long", 1, tooLong},
		{"GitHub's hook is built, a forged one is not", 1, github},
		{"GitLab's hooks, signed and with a token", 2, gitlab},
		{"a request that is too large", 0, tooLarge},
		{"what nobody understands is kept", 0, deadLetter},
		{"the subscriber is away", 2, away},
		{"the dispatcher is killed", 3, killed},
	}
}

// Builds is how many builds end in all scenarios.
func Builds() int {
	n := 0
	for _, tale := range tales() {
		n += tale.builds
	}
	return n
}

// All runs every scenario. base is an image that builds can pull and that has a
// shell.
func All(t *testing.T, w World, base string) {
	for _, tale := range tales() {
		t.Run(tale.name, func(t *testing.T) {
			s := &story{World: w, base: base, name: "s" + strings.Map(letters, tale.name)}
			tale.tell(t, s)
			if all := s.ended(t); len(all) != tale.builds {
				t.Errorf("%d builds ended, want %d: %v", len(all), tale.builds, all)
			}
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
}

// commits makes a repository with a commit for each Dockerfile and returns their
// ids. The branch is at the last.
func (s *story) commits(t *testing.T, steps ...string) []string {
	t.Helper()
	s.began = time.Now().Add(-time.Hour).UTC()
	dir, bare := t.TempDir(), filepath.Join(s.Root, s.name+".git")
	runGit(t, dir, "init", "-q", "--bare", bare)
	runGit(t, dir, "init", "-q", "-b", "main")
	var ids []string
	for i, step := range steps {
		text := fmt.Sprintf("FROM %s\nENV COMMIT=%d\n%s\n", s.base, i, step)
		check(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644))
		runGit(t, dir, "add", ".")
		runGit(t, dir, "commit", "-qm", fmt.Sprint(i))
		ids = append(ids, runGit(t, dir, "rev-parse", "HEAD"))
	}
	runGit(t, dir, "push", "-q", bare, "main")
	return ids
}

// none is where a branch was before there was one.
const none = "0000000000000000000000000000000000000000"

// deliver tells the dispatcher that the branch went from one commit to another,
// seconds after the first push, and returns what it decided. It may be called
// from several goroutines; the error is for the caller to report.
func (s *story) deliver(before, after string, second int) (dispatch.Decision, error) {
	return s.deliverRef("main", before, after, second)
}

// deliverRef is deliver for any branch.
func (s *story) deliverRef(branch, before, after string, second int) (dispatch.Decision, error) {
	body := before + " " + after + " refs/heads/" + branch + "\n"
	req, err := http.NewRequest(http.MethodPost, s.URL+"/hooks/git", strings.NewReader(body))
	if err != nil {
		return dispatch.Decision{}, err
	}
	req.Header.Set("Content-Type", "text/plain")
	req.Header.Set(git.HeaderRepository, s.Repository(s.name+".git"))
	req.Header.Set(git.HeaderTime, s.began.Add(time.Duration(second)*time.Second).Format(time.RFC3339))
	return s.decision(req)
}

// decision sends a request of which one build comes.
func (s *story) decision(req *http.Request) (dispatch.Decision, error) {
	var answer struct{ Builds []dispatch.Decision }
	if err := s.do(req, &answer); err != nil {
		return dispatch.Decision{}, err
	}
	if len(answer.Builds) != 1 {
		return dispatch.Decision{}, fmt.Errorf("%d decisions, want one", len(answer.Builds))
	}
	return answer.Builds[0], nil
}

// ask sends a request to the API.
func (s *story) ask(t *testing.T, method, path, body string, answer any) {
	t.Helper()
	check(t, s.do(s.request(t, method, dispatch.APIPrefix+path, body, nil), answer))
}

func (s *story) request(t *testing.T, method, path, body string, header map[string]string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	check(t, err)
	req.Header.Set("Content-Type", "application/json")
	for name, value := range header {
		req.Header.Set(name, value)
	}
	return req
}

// status sends a request once and returns the status and the text of the answer.
func (s *story) status(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
	}
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	body, err := io.ReadAll(resp.Body)
	check(t, errors.Join(err, resp.Body.Close()))
	return resp.StatusCode, string(body)
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

// end waits until n builds of the story have ended and returns the last one's data.
func (s *story) end(t *testing.T, n int) events.Finished {
	t.Helper()
	for deadline := time.Now().Add(s.Limit); ; time.Sleep(100 * time.Millisecond) {
		if all := s.ended(t); len(all) >= n {
			return all[n-1]
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d builds have not ended within %s", n, s.Limit)
		}
	}
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

// ended are the ended builds of the story, each once, in the order of their events.
func (s *story) ended(t *testing.T) []events.Finished {
	t.Helper()
	seen := map[string]bool{}
	var all []events.Finished
	for _, e := range s.Finished() {
		var data events.Finished
		check(t, e.DataAs(&data))
		if data.Image.Repository != s.Image(s.name) || seen[e.ID()] {
			continue
		}
		if e.ID() != events.FinishedID(data.Build.ID) {
			t.Errorf("the event of build %s has the id %s", data.Build.ID, e.ID())
		}
		seen[e.ID()] = true
		all = append(all, data)
	}
	return all
}

// tag is what the branch's tag names; the error wraps what the registry said.
func (s *story) tag() (*v1.Descriptor, error) {
	ref, err := name.ParseReference(s.Image(s.name)+":main", name.Insecure)
	if err != nil {
		return nil, err
	}
	return remote.Head(ref)
}

// tagged returns the digest that the branch's tag names.
func (s *story) tagged(t *testing.T) string {
	t.Helper()
	d, err := s.tag()
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

// runGit runs git in a directory and returns what it printed.
func runGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com",
		"GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com", "GIT_TERMINAL_PROMPT=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(bytes.TrimSpace(out))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
