package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/e2e/internal/cgroup"
)

// interval is how often the processes of a build are looked at.
const interval = 10 * time.Millisecond

// sample is what one build used.
type sample struct {
	Wall    time.Duration `json:"wall"` // nanoseconds, as all durations
	CPU     time.Duration `json:"cpu"`  // of all processes
	RSS     int64         `json:"rss"`  // of the process that had most at once, bytes
	Largest string        `json:"largest"`
	Memory  int64         `json:"memory"` // peak of the control group, bytes
	traffic
	Layers  int           `json:"layers"`             // of the image
	PerRun  time.Duration `json:"perRun,omitempty"`   // processor time between the ends of two RUNs
	OOM     int64         `json:"oomKills,omitempty"` // processes that were killed for want of memory
	Failure string        `json:"failure,omitempty"`
}

// meter looks at the processes of a group while something is built.
type meter struct {
	group *cgroup.Group
	stop  chan struct{}
	ended sync.WaitGroup

	largest int64
	who     string
	// Of a process called executor:
	first, last time.Time
	before      time.Duration // processor time of the group when it was first seen
	err         error
}

func newMeter(group *cgroup.Group) *meter {
	m := &meter{group: group, stop: make(chan struct{})}
	m.ended.Go(func() {
		ticks := time.NewTicker(interval)
		defer ticks.Stop()
		for {
			m.look()
			select {
			case <-m.stop:
				return
			case <-ticks.C:
			}
		}
	})
	return m
}

// close looks once more and ends.
func (m *meter) close() error {
	close(m.stop)
	m.ended.Wait()
	return m.err
}

func (m *meter) look() {
	pids, err := m.group.Processes()
	if err != nil {
		m.err = err
		return
	}
	for _, pid := range pids {
		who, peak := status(pid)
		if strings.HasPrefix(who, "runc") {
			continue
		}
		if peak > m.largest {
			m.largest, m.who = peak, who
		}
		if who != "executor" {
			continue
		}
		m.last = time.Now()
		if m.first.IsZero() {
			m.first = m.last
			m.before, m.err = m.group.CPU()
		}
	}
}

// status is the name of a process and the most memory it had resident, in bytes.
// A process that has ended has none.
func status(pid int) (who string, peak int64) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return "", 0
	}
	for line := range bytes.Lines(raw) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch string(fields[0]) {
		case "Name:":
			who = string(fields[1])
		case "VmHWM:":
			if n, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil {
				peak = n << 10
			}
		}
	}
	return who, peak
}

// buildTime is how long a build may take.
const buildTime = 15 * time.Minute

// measurement says what to measure.
type measurement struct {
	builder    builder
	dir        string // in which the builder gets one of its own
	context    string
	host       string // through which the registry is reached
	repository string
	cached     bool
	limit      int64 // of memory, in bytes; 0 for none
	runs       int   // of the Dockerfile, to find what one of many uses; 0 not to
}

// measure builds once. An error means that nothing could be measured; a build
// that failed is a sample that says so.
func (l *lab) measure(ctx context.Context, m measurement) (s sample, err error) {
	build := l.builds.Add(1)
	dir := filepath.Join(m.dir, fmt.Sprintf("run%d", build))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	group, err := cgroup.New(fmt.Sprintf("kiln-bench-%d-%d", os.Getpid(), build))
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, group.Remove()) }()
	if m.limit > 0 {
		if err := group.LimitMemory(m.limit); err != nil {
			return s, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, buildTime, fmt.Errorf("the build takes more than %v", buildTime))
	defer cancel()
	steps := &steps{group: group}
	session, err := m.builder.ready(ctx, job{
		dir: dir, context: m.context, host: m.host, repository: m.repository, cached: m.cached, group: group, limit: m.limit, line: steps.line,
	})
	if err != nil {
		return s, fmt.Errorf("prepare %s: %w", m.builder.name, err)
	}
	s, err = l.watch(ctx, m, group, session)
	if err = errors.Join(err, session.close()); err != nil {
		return s, err
	}
	if m.runs > 1 && s.Failure == "" && strings.HasPrefix(m.builder.name, "Kiln") {
		s.PerRun, err = steps.perRun(m.runs)
	}
	return s, err
}

// watch measures a build that is ready.
func (l *lab) watch(ctx context.Context, m measurement, group *cgroup.Group, session session) (s sample, err error) {
	before, err := group.CPU()
	if err != nil {
		return s, err
	}
	sent := l.depot.traffic()
	meter := newMeter(group)
	began := time.Now()
	failed := session.build(ctx)
	s.Wall = time.Since(began)
	after, err := group.CPU()
	if err := errors.Join(err, meter.close()); err != nil {
		return s, err
	}
	if m.builder.contained && !meter.first.IsZero() {
		s.Wall, before = meter.last.Sub(meter.first), meter.before
	}
	s.CPU = after - before
	s.RSS, s.Largest = meter.largest, meter.who
	s.traffic = l.depot.traffic().since(sent)
	if s.Memory, err = group.MemoryPeak(); err != nil {
		return s, err
	}
	if s.OOM, err = group.OOMKills(); err != nil {
		return s, err
	}
	if failed != nil {
		s.Failure = failed.Error()
		return s, nil //nolint:nilerr // that is what was measured
	}
	s.Layers, err = countLayers(ctx, l.depot.host+"/"+m.repository+"/app:latest")
	return s, err
}

// countLayers says how many layers an image has that was pushed.
func countLayers(ctx context.Context, image string) (int, error) {
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		return 0, err
	}
	img, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return 0, fmt.Errorf("the build ended well but there is no image: %w", err)
	}
	layers, err := img.Layers()
	return len(layers), err
}

// steps notes how much time the group has used whenever the executor says that
// a RUN is done.
type steps struct {
	group *cgroup.Group
	ends  []time.Duration
	err   error
}

func (s *steps) line(line string) {
	var e struct{ Kind, State, Name string }
	if json.Unmarshal([]byte(line), &e) != nil || e.Kind != "step" || e.State != "done" || !strings.Contains(e.Name, "RUN ") {
		return
	}
	used, err := s.group.CPU()
	if err != nil {
		s.err = err
	}
	s.ends = append(s.ends, used)
}

// perRun is the time between the end of the first RUN and that of the last, by
// the number of those after the first.
func (s *steps) perRun(runs int) (time.Duration, error) {
	if s.err != nil {
		return 0, s.err
	}
	if len(s.ends) != runs {
		return 0, fmt.Errorf("the executor told the end of %d RUNs, not of %d", len(s.ends), runs)
	}
	return (s.ends[runs-1] - s.ends[0]) / time.Duration(runs-1), nil
}
