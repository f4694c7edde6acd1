package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"

	"github.com/spf13/pflag"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/executor/internal/source"
)

// Exit statuses of a build that a request asked for. What launched it decides
// by them whether another try may help; see knative/launch.
const (
	statusBuildFailed = 42 // the build is at fault
	statusWorldFailed = 43 // the world is; another try may help
)

// maxTermination is what Kubernetes keeps of a container's termination message.
const maxTermination = 4096

// requestFlags are the flags of executors that a dispatcher launches.
func requestFlags(f *pflag.FlagSet, c *config) {
	f.StringVar(&c.requestFile, "request-file", "", "build what the request in `file` asks for (JSON of a request, or the CloudEvent dev.kilnhook.build.run.v1), push it by digest, and exit with 42 if the build is at fault, 43 if the world is")
	f.StringVar(&c.terminationFile, "termination-file", "", "write what became of the build to `file`, in the 4096 bytes that Kubernetes reads of /dev/termination-log")
}

// request takes from the request file what is to be built. What it says and a
// flag says too is an error: one of the two would be ignored.
func (c *config) request(flags *pflag.FlagSet) error {
	if c.requestFile == "" {
		return nil
	}
	for _, name := range []string{
		"context", "context-sub-path", "dockerfile", "target", "build-arg", "destination", "push-by-digest", "bucket", "git", "custom-platform",
	} {
		if flags.Changed(name) {
			return fmt.Errorf("--request-file and --%s exclude each other: the request says it", name)
		}
	}
	data, err := os.ReadFile(c.requestFile)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	order, err := events.ParseOrder(data)
	if err != nil {
		return fmt.Errorf("%s: %w", c.requestFile, err)
	}
	c.asked = &order
	req := order.Request
	c.context, c.subPath, c.target, c.platform = req.Context, req.ContextSubPath, req.Target, req.Platform
	if req.Dockerfile != "" {
		c.dockerfile = req.Dockerfile
	}
	for _, k := range slices.Sorted(maps.Keys(req.Args)) {
		c.buildArgs = append(c.buildArgs, k+"="+req.Args[k])
	}
	for _, k := range slices.Sorted(maps.Keys(req.Labels)) {
		c.labels = append(c.labels, k+"="+req.Labels[k])
	}
	if req.Image == "" {
		c.noPush = true
	} else {
		c.destinations, c.pushByDigest = []string{req.Image}, true
	}
	return nil
}

// requestStatus is the exit status of a build that a request asked for.
func requestStatus(res events.Result) int {
	switch res.Outcome {
	case events.OutcomeSuccess:
		return 0
	case events.OutcomeFailed:
		return statusBuildFailed
	}
	return statusWorldFailed
}

// putResult puts the result where the request wants it, at least once.
func (s *session) putResult(ctx context.Context) error {
	if s.c.asked == nil || s.c.asked.ResultURL == "" {
		return nil
	}
	body, err := json.Marshal(s.res.Clean())
	if err != nil {
		return fmt.Errorf("put result: %w", err)
	}
	header := http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + s.c.asked.ResultToken}}
	if err := send(ctx, http.MethodPut, s.c.asked.ResultURL, header, body); err != nil {
		return fmt.Errorf("put result to %s: %w", source.Redact(s.c.asked.ResultURL), err)
	}
	return nil
}

// writeTermination writes the result in the bytes that there are: what is long
// and can be had elsewhere goes first.
func writeTermination(path string, res events.Result) error {
	for _, shorten := range []func(){
		func() {},
		func() { res.Layers = nil },
		func() { res.Bases = nil },
		func() { res.Message = events.CleanText(res.Message, events.MaxMessage/2) },
		func() { res.Message = events.CleanText(res.Message, events.MaxMessage/8) },
	} {
		shorten()
		raw, err := json.Marshal(res)
		if err != nil {
			return err
		}
		if len(raw) <= maxTermination {
			return writeFile(path, raw)
		}
	}
	return errors.New("the result does not fit")
}
