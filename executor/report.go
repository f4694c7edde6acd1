package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/executor/internal/build"
	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/source"
)

// classError says whose fault an error is.
type classError struct {
	class events.Class
	err   error
}

func (e *classError) Error() string { return e.err.Error() }
func (e *classError) Unwrap() error { return e.err }

// fault marks an error with a class, unless it has one.
func fault(class events.Class, err error) error {
	var c *classError
	if err == nil || errors.As(err, &c) {
		return err
	}
	return &classError{class, err}
}

// classify turns an error into the outcome of the build.
func classify(ctx context.Context, err error) (events.Outcome, events.Class) {
	var c *classError
	var d *dockerfile.Error
	switch {
	case err == nil:
		return events.OutcomeSuccess, events.ClassNone
	case ctx.Err() != nil:
		return events.OutcomeCancelled, events.ClassNone
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return events.OutcomeFailed, events.ClassDisk
	case errors.As(err, &c) && c.class == events.ClassInfra:
		return events.OutcomeError, events.ClassInfra
	case errors.As(err, &c):
		return events.OutcomeFailed, c.class
	case errors.As(err, &d):
		return events.OutcomeFailed, events.ClassBuild
	}
	return events.OutcomeError, events.ClassInfra
}

// report tells everybody what became of the build and returns the exit status.
// The image is where it should be by now, or there is none.
func (s *session) report(ctx context.Context, err error) int {
	status := 0
	s.res.StartedAt, s.res.FinishedAt = s.begun.UTC(), s.p.now().UTC()
	if err == nil {
		err = s.writeFiles(ctx)
	}
	s.res.Outcome, s.res.Class = classify(ctx, err)
	s.res.Isolation = string(s.iso.mode)
	if err != nil {
		status = 1
		var exit *sandbox.ExitError
		if errors.As(err, &exit) && exit.Code != 0 {
			status = exit.Code
		}
		if status == 128+int(unix.SIGKILL) && oomKills(s.p.root) > s.oomKills {
			s.res.Class, s.res.Reason = events.ClassOOM, "out of memory"
		}
		s.res.Message = s.message(ctx, err)
	}
	s.res.ExitCode = status
	if s.c.asked != nil {
		status = requestStatus(s.res)
	}
	s.tellResult(err)
	if s.c.terminationFile != "" {
		if werr := writeTermination(s.c.terminationFile, s.res.Clean()); werr != nil {
			s.note("write termination message: %v", werr)
			status = max(status, 1)
		}
	}
	if s.c.resultFile != "" {
		if werr := writeJSON(s.c.resultFile, s.res.Clean()); werr != nil {
			s.note("write result: %v", werr)
			status = max(status, 1)
		}
	}
	// The result and the event are owed also if the build was told to stop.
	if perr := s.putResult(context.WithoutCancel(ctx)); perr != nil {
		s.note("%v", perr)
		status = statusWorldFailed
	}
	if s.c.eventSink != "" {
		if serr := s.sendEvent(context.WithoutCancel(ctx)); serr != nil {
			s.note("%v", serr)
			status = max(status, 1)
		}
	}
	return status
}

// message is what people read: the error and, of a RUN, what it printed last.
func (s *session) message(ctx context.Context, err error) string {
	if cause := context.Cause(ctx); cause != nil {
		return "the build was stopped: " + cause.Error()
	}
	text := err.Error()
	var run *build.RunError
	if errors.As(err, &run) && len(run.Tail) > 0 {
		text += "\n" + strings.Join(run.Tail, "\n")
	}
	return text
}

func (s *session) tellResult(err error) {
	e := progress.Event{Time: s.p.now(), Kind: progress.KindResult, State: progress.StateDone, Text: s.res.Digest}
	e.MS = e.Time.Sub(s.begun).Milliseconds()
	if err != nil {
		text := err.Error()
		if s.res.Outcome == events.OutcomeCancelled {
			text = s.res.Message
		}
		e.State, e.Error, e.Text = progress.StateFailed, text, text
	}
	s.sink.Send(e)
}

// writeFiles writes what --digest-file and its kin ask for, into files or to
// URLs.
func (s *session) writeFiles(ctx context.Context) error {
	if s.res.Digest == "" {
		return nil
	}
	if s.c.digestFile != "" {
		if err := writeOutput(ctx, s.c.digestFile, []byte(s.res.Digest), s.userAgent()); err != nil {
			return fmt.Errorf("write digest file: %w", err)
		}
	}
	var names, tagged, built bytes.Buffer
	for _, d := range s.c.destinations {
		repo, tag := splitDestination(d)
		full, err := name.NewTag(d, name.WeakValidation)
		if err != nil {
			return fmt.Errorf("destination %s: %w", d, err)
		}
		line, err := json.Marshal(builderOutput{Name: repo + ":" + tag, Digest: s.res.Digest})
		if err != nil {
			return err
		}
		built.Write(append(line, '\n'))
		fmt.Fprintf(&names, "%s@%s\n", full.Repository.Name(), s.res.Digest)
		fmt.Fprintf(&tagged, "%s@%s\n", full.Name(), s.res.Digest)
	}
	for path, content := range map[string][]byte{s.c.nameDigestFile: names.Bytes(), s.c.nameTagDigestFile: tagged.Bytes()} {
		if path == "" {
			continue
		}
		if err := writeOutput(ctx, path, content, s.userAgent()); err != nil {
			return fmt.Errorf("write image name file: %w", err)
		}
	}
	if dir := s.env("BUILDER_OUTPUT"); dir != "" && !s.c.noPush {
		if err := writeFile(filepath.Join(dir, "images"), built.Bytes()); err != nil {
			return fmt.Errorf("write to BUILDER_OUTPUT: %w", err)
		}
	}
	return nil
}

// builderOutput is a line of the file "images" that Google Cloud Build reads.
type builderOutput struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// splitDestination splits a reference into repository and tag.
func splitDestination(d string) (repo, tag string) {
	if i := strings.LastIndexByte(d, ':'); i > strings.LastIndexByte(d, '/') {
		return d[:i], d[i+1:]
	}
	return d, "latest"
}

// writeJSON writes a file that is complete or not there.
func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(raw, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

const (
	sendTries   = 5
	sendTimeout = 10 * time.Second
)

// sendEvent sends build.finished to the sink, at least once.
func (s *session) sendEvent(ctx context.Context) error {
	ev, err := events.FinishedEvent(s.request(), s.res, nil)
	if err != nil {
		return fmt.Errorf("send event: %w", err)
	}
	header, body, err := events.EncodeHTTP(ev)
	if err != nil {
		return fmt.Errorf("send event: %w", err)
	}
	if err := send(ctx, http.MethodPost, s.c.eventSink, header, body); err != nil {
		return fmt.Errorf("send event to %s: %w", source.Redact(s.c.eventSink), err)
	}
	return nil
}

// send sends a request until it is answered with a success or with what no
// repetition changes.
func send(ctx context.Context, method, url string, header http.Header, body []byte) error {
	wait := 200 * time.Millisecond
	for try := 1; ; try++ {
		retry, err := post(ctx, method, url, header, body)
		if err == nil || !retry || try == sendTries {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait *= 3
	}
}

// post sends a request; retry says whether another try may help.
func post(ctx context.Context, method, url string, header http.Header, body []byte) (retry bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sendTimeout, errors.New("the sink did not answer in time"))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	switch {
	case resp.StatusCode < 300:
		return false, nil
	case resp.StatusCode >= 500, resp.StatusCode == 404, resp.StatusCode == 408, resp.StatusCode == 409, resp.StatusCode == 429:
		return true, fmt.Errorf("the sink answered %s", resp.Status)
	}
	return false, fmt.Errorf("the sink answered %s", resp.Status)
}

// request describes the build for the event: as it was asked for, or, of an
// executor that nobody dispatched, as its flags say.
func (s *session) request() events.Request {
	if s.c.asked != nil {
		return s.c.asked.Request
	}
	where := source.Redact(s.c.context)
	req := events.Request{
		Trigger: "executor", Sequence: 1, Group: "executor", Context: where, ContextSubPath: s.c.subPath,
		Dockerfile: s.c.dockerfile, Target: s.c.target, RequestedAt: s.begun, Attempt: 1,
		Change: events.Change{Kind: events.KindObject, Location: where, Name: where, Generation: s.source.String()},
	}
	if req.Change.Generation == "" {
		req.Change.Generation = s.begun.UTC().Format(time.RFC3339Nano)
	}
	for i, d := range s.c.destinations {
		repo, tag := splitDestination(d)
		if i == 0 {
			req.Image = repo
		}
		if repo == req.Image && !s.c.pushByDigest {
			req.Tags = append(req.Tags, tag)
		}
	}
	req.BuildID = events.BuildID(append([]string{"executor", where, s.begun.UTC().Format(time.RFC3339Nano)}, s.c.destinations...)...)
	return req
}
