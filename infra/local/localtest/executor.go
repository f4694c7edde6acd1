// Package localtest has a stand-in for the executor, for tests of what is
// around it: it fetches the context in the executor's own spelling, does what
// the Dockerfile's first line says, and pushes a real image by digest.
package localtest

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/events"
)

// Process is what the stand-in gets from outside.
type Process struct {
	Args   []string // flags, without the program's name
	Stderr io.Writer
	Getenv func(string) string
	Now    func() time.Time
}

type executor struct{ Process }

// Executor is the program. The Dockerfile's first line may be
//
//	# fail         a RUN fails with status 3
//	# kill         the executor kills itself
//	# wait FILE    it waits until FILE exists, or SIGTERM
//	# evil         it prints markup and terminal controls
//
// and anything else is a success. "# on PLATFORM ORDER" is such an order for one
// platform only. It returns the exit status.
func Executor(ctx context.Context, p Process) int {
	e := &executor{p}
	flags, args := map[string]string{}, p.Args
	for i := 0; i < len(args); i++ {
		if i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
			flags[args[i]] = args[i+1]
			i++
			continue
		}
		flags[args[i]] = ""
	}
	res := e.build(ctx, flags)
	data, err := json.Marshal(res)
	if err == nil {
		err = os.WriteFile(flags["--result-file"]+".tmp", data, 0o600)
	}
	if err == nil {
		err = os.Rename(flags["--result-file"]+".tmp", flags["--result-file"])
	}
	if err != nil {
		fmt.Fprintln(e.Stderr, "executor:", err)
		return 1
	}
	if res.Outcome != events.OutcomeSuccess {
		e.say(events.Progress{Kind: events.ProgressResult, Error: res.Message})
		return max(res.ExitCode, 1)
	}
	e.say(events.Progress{Kind: events.ProgressResult, Text: res.Digest})
	return 0
}

// say tells the launcher; one that is gone needs no telling.
func (e *executor) say(p events.Progress) {
	p.Time = e.Now()
	_ = json.NewEncoder(e.Stderr).Encode(p)
}

func (e *executor) build(ctx context.Context, flags map[string]string) events.Result {
	dockerfile, err := e.fetch(ctx, flags["--context"], flags["--work-dir"])
	if err != nil {
		return events.Result{Outcome: events.OutcomeFailed, Class: events.ClassSource, Message: err.Error(), ExitCode: 1}
	}
	step := events.Progress{Kind: events.ProgressStep, ID: "1.1", Name: "[1/1] RUN work", Phase: "run", State: events.StepStarted}
	e.say(step)
	first, _, _ := strings.Cut(dockerfile, "\n")
	order, arg, _ := strings.Cut(strings.TrimPrefix(first, "# "), " ")
	if order == "on" {
		platform, rest, _ := strings.Cut(arg, " ")
		order, arg = "", ""
		if platform == flags["--custom-platform"] {
			order, arg, _ = strings.Cut(rest, " ")
		}
	}
	switch order {
	case "fail":
		step.State, step.Error = events.StepFailed, "status 3"
		e.say(step)
		return events.Result{Outcome: events.OutcomeFailed, Class: events.ClassBuild, Message: "Dockerfile:2: RUN work: status 3", ExitCode: 3}
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "wait":
		for {
			if _, err := os.Stat(arg); err == nil {
				break
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return events.Result{Outcome: events.OutcomeError, Class: events.ClassInfra, Message: "stopped", ExitCode: 1}
			}
		}
	case "evil":
		e.say(events.Progress{Kind: events.ProgressOutput, ID: "1.1", Text: "<script>alert(1)</script> \x1b[2Jgone"})
	default:
		e.say(events.Progress{Kind: events.ProgressOutput, ID: "1.1", Text: "hello from " + first})
	}
	digest, err := push(ctx, flags["--destination"])
	if err != nil {
		return events.Result{Outcome: events.OutcomeError, Class: events.ClassPush, Message: err.Error(), ExitCode: 1}
	}
	step.State, step.MS = events.StepDone, 7
	e.say(step)
	return events.Result{Outcome: events.OutcomeSuccess, Digest: digest, Platform: cmp.Or(flags["--custom-platform"], "linux/amd64")}
}

// fetch returns the context's Dockerfile.
func (e *executor) fetch(ctx context.Context, from, work string) (string, error) {
	if p, ok := strings.CutPrefix(from, "tar://"); ok {
		return fromTar(p)
	}
	address, ok := strings.CutPrefix(from, "git://")
	parts := strings.Split(address, "#")
	if !ok || len(parts) != 3 || e.Getenv("GIT_PULL_METHOD") != "http" {
		return "", fmt.Errorf("context %q cannot be fetched", from)
	}
	dir := filepath.Join(work, "clone")
	for _, args := range [][]string{{"init", "-q", dir}, {"-C", dir, "fetch", "-q", "--depth=1", "http://" + parts[0], parts[2]}, {"-C", dir, "checkout", "-q", "FETCH_HEAD"}} {
		if out, err := exec.CommandContext(ctx, "git", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	return string(data), err
}

func fromTar(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		return "", fmt.Errorf("context is not a gzip archive: %w", err)
	}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return "", errors.New("context has no Dockerfile")
		}
		if err != nil {
			return "", err
		}
		if path.Clean(h.Name) == "Dockerfile" {
			data, err := io.ReadAll(r)
			return string(data), err
		}
	}
}

// push makes an image nobody has and uploads it by digest only.
func push(ctx context.Context, repository string) (string, error) {
	img, err := random.Image(10_000, 2)
	if err != nil {
		return "", err
	}
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	ref, err := name.NewDigest(repository + "@" + digest.String())
	if err != nil {
		return "", err
	}
	return digest.String(), remote.Write(ref, img, remote.WithContext(ctx))
}
