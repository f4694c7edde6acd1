package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/tools"
)

const (
	memoryLimit = 256 << 20
	starts      = 20
)

// The names of the rows that are not workloads.
const (
	limitedRow = "memory"
	startRow   = "start"
)

// limited builds every workload in both modes with no more memory than the
// limit, on a disk: what lies on a tmpfs is memory that cannot be taken back.
// Workloads with caches are built as a whole, without what they have in a cache.
// Time is not measured here, so both modes build at once unless a disk cannot keep up.
func (l *lab) limited(ctx context.Context, list []workload, out map[string]map[string]sample) error {
	// Directories are made before there are several who want them.
	if _, err := l.stores.in(ctx, disk); err != nil {
		return err
	}
	for _, w := range list {
		if w.again || !l.chosen(limitedRow+"/"+w.name) {
			continue
		}
		if err := l.push(ctx, w); err != nil {
			return err
		}
		var mu sync.Mutex
		samples := map[string]sample{}
		g, gctx := errgroup.WithContext(ctx)
		if w.alone {
			g.SetLimit(1)
		}
		for _, b := range l.builders(w) {
			if !strings.HasPrefix(b.name, both) {
				continue
			}
			g.Go(func() error {
				s, err := l.onceLimited(gctx, w, b)
				if err != nil {
					return fmt.Errorf("%s with %s in %d MiB: %w", w.name, b.name, memoryLimit>>20, err)
				}
				mu.Lock()
				defer mu.Unlock()
				samples[b.name] = s
				l.say("%-12s %-12s  %-12s  %s", limitedRow, w.name, b.name, s)
				return nil
			})
		}
		if err := errors.Join(g.Wait(), l.depot.clear(repository("run"))); err != nil {
			return err
		}
		out[w.name] = samples
	}
	return nil
}

// started is what "executor version" takes.
type started struct {
	CPU time.Duration `json:"cpu"` // median
	RSS int64         `json:"rss"` // the most, bytes
}

// start measures the start of the executor.
func (l *lab) start(ctx context.Context) (started, error) {
	var s started
	dir, err := l.stores.in(ctx, disk)
	if err != nil {
		return s, err
	}
	gen := filepath.Join(dir, "gen")
	if err := tools.Build(ctx, gen, "./e2e/bench/gen"); err != nil {
		return s, err
	}
	var times []float64
	for range starts {
		told, err := process.Run(ctx, exec.CommandContext(ctx, gen, "time", l.using.executor, "version"), nil)
		if err != nil {
			return s, err
		}
		var used time.Duration
		var kibibytes int64
		if _, err := fmt.Sscan(string(told), &used, &kibibytes); err != nil {
			return s, fmt.Errorf("gen time said %q: %w", told, err)
		}
		times = append(times, used.Seconds())
		s.RSS = max(s.RSS, kibibytes<<10)
	}
	s.CPU = time.Duration(median(times) * float64(time.Second))
	l.say("%-12s %v CPU, %d KiB RSS", startRow, s.CPU, s.RSS>>10)
	return s, nil
}

// judge says what of the targets of the rows that are not workloads is met.
func (f figures) judgeExtra() []verdict {
	var verdicts []verdict
	for _, name := range f.order {
		for _, who := range []string{overlay, inPlace} {
			s, ok := f.Limited[name][who]
			if !ok {
				continue
			}
			v := verdict{
				Workload: limitedRow + "/" + name, Builder: who, Target: "passes with 256 MiB",
				Measured: fmt.Sprintf("passed, peak %d MiB", s.Memory>>20), Met: s.Failure == "",
			}
			if s.Failure != "" {
				v.Measured, v.Value = fmt.Sprintf("failed, %d killed for want of memory", s.OOM), -1
			}
			verdicts = append(verdicts, v)
		}
	}
	if s := f.Start; s != nil {
		verdicts = append(verdicts,
			verdict{startRow, both, "CPU ≤ 10 ms", fmt.Sprintf("%.1f ms", s.CPU.Seconds()*1000), s.CPU.Seconds(), s.CPU <= 10*time.Millisecond},
			verdict{startRow, both, "RSS ≤ 20 MiB", fmt.Sprintf("%.1f MiB", float64(s.RSS)/(1<<20)), float64(s.RSS), s.RSS <= 20<<20})
	}
	return verdicts
}

// figures are everything that was measured.
type figures struct {
	Machine machine                      `json:"machine"`
	Samples results                      `json:"samples"`
	Limited map[string]map[string]sample `json:"limited,omitempty"` // under the memory limit, by workload and mode
	Start   *started                     `json:"start,omitempty"`
	Targets []verdict                    `json:"targets"`

	order []string // of all workloads
	list  []workload
}

// judge fills in the targets.
func (f *figures) judge() {
	f.Targets = nil
	for _, w := range f.list {
		f.Targets = append(f.Targets, f.Samples.judge(w)...)
	}
	f.Targets = append(f.Targets, f.judgeExtra()...)
}
