package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/internal/buildkit"
	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/tools"
)

// lab has all that builds and is built from.
type lab struct {
	options
	module string
	stores stores
	bases  bases
	depot  *depot
	using  programs
	log    io.Writer

	pushed map[string]bool
	builds atomic.Int64
	began  time.Time
}

// openLab makes what is needed and starts the registry. Everything is below dir,
// but for what is kept in the cache.
func openLab(ctx context.Context, o options, module, dir string, log io.Writer) (l *lab, err error) {
	l = &lab{options: o, module: module, log: log, stores: stores{dir, map[string]string{}}, pushed: map[string]bool{}, began: time.Now()}
	kept, err := cache.Default()
	if err != nil {
		return nil, err
	}
	l.bases = bases{cache: kept, module: module, sizes: o.sizes, log: log}
	for _, d := range []string{"registry", "container/kaniko"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	// The registry is in memory always: its disk is nobody's concern.
	if err := mountMemory(filepath.Join(dir, "registry")); err != nil {
		return nil, err
	}
	if l.using, err = findPrograms(ctx, o, kept, module, filepath.Join(dir, "container"), log); err != nil {
		return nil, err
	}
	l.depot, err = newDepot(ctx, filepath.Join(dir, "registry"))
	return l, err
}

// findPrograms compiles the executor and BuildKit and finds the rest.
func findPrograms(ctx context.Context, o options, kept cache.Dir, module, root string, log io.Writer) (programs, error) {
	p := programs{root: root, executor: filepath.Join(root, "kaniko", "executor"), profiles: o.profiles}
	var err error
	if p.runc, err = exec.LookPath("runc"); err != nil {
		return p, fmt.Errorf("%w; run .ci/setup bench", err)
	}
	// Without buildah it is not compared with.
	p.buildah, _ = exec.LookPath("buildah")
	if p.buildkit, err = buildkit.Compile(ctx, kept, filepath.Join(module, "e2e", "oracle"), log); err != nil {
		return p, err
	}
	if o.executor != "" {
		content, err := os.ReadFile(o.executor)
		if err != nil {
			return p, err
		}
		return p, os.WriteFile(p.executor, content, 0o755)
	}
	return p, tools.Build(ctx, p.executor, "./executor")
}

// close stops the registry.
func (l *lab) close() error {
	if l.depot == nil {
		return nil
	}
	return l.depot.close()
}

// say prints a line of progress with the seconds since the start.
func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(l.log, "%4.0fs  %s\n", time.Since(l.began).Seconds(), fmt.Sprintf(format, args...))
}

// push makes the base images of a workload available.
func (l *lab) push(ctx context.Context, w workload) error {
	for _, name := range append([]string{w.base}, w.further...) {
		if l.pushed[name] {
			continue
		}
		img, err := l.bases.image(ctx, name)
		if err != nil {
			return err
		}
		if _, err := baseimage.Push(ctx, img, l.depot.host+"/bases/"+name+":latest"); err != nil {
			return err
		}
		l.pushed[name] = true
	}
	return l.depot.settle()
}

// builders are those who build a workload.
func (l *lab) builders(w workload) []builder {
	return slices.DeleteFunc(l.using.builders(), func(b builder) bool {
		return !strings.HasPrefix(b.name, w.only) || l.builder != nil && !l.builder.MatchString(b.name)
	})
}

// storeOf is where a workload is built.
func (l *lab) storeOf(w workload) string {
	if w.store != "" {
		return w.store
	}
	return l.options.store
}

// seed is the repository with the cache that a builder filled.
func seed(w workload, b builder) string {
	return repository("seed", w.name, strings.ReplaceAll(b.name, " ", "-"))
}

// fill builds a workload once with everybody, so that the steps are in their caches. The
// registry has the name that it is measured under: the Dockerfile is the same.
func (l *lab) fill(ctx context.Context, w workload, builders []builder, host string) error {
	dir, err := l.stores.in(ctx, l.storeOf(w))
	if err != nil {
		return err
	}
	context := filepath.Join(dir, "context")
	if err := w.prepare(context, host, 0); err != nil {
		return err
	}
	// Nothing is measured here, so two may build at a time.
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for _, b := range builders {
		g.Go(func() error {
			s, err := l.measure(gctx, measurement{builder: b, dir: dir, context: context, host: host, repository: seed(w, b), cached: true})
			if err == nil && s.Failure != "" {
				err = errors.New(s.Failure)
			}
			if err != nil {
				return fmt.Errorf("fill the cache of %s with %s: %w", w.name, b.name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	l.say("%-12s caches are filled", w.name)
	if err := l.depot.settle(); err != nil {
		return err
	}
	return os.RemoveAll(context)
}

// once builds a workload with one builder into a repository of its own, and
// removes everything that came of it. The repository has the layers of the base
// image, as one that is pushed to every day has: it is not who mounts them best
// that is measured.
func (l *lab) once(ctx context.Context, w workload, b builder, host string, version int) (sample, error) {
	dir, err := l.stores.in(ctx, l.storeOf(w))
	if err != nil {
		return sample{}, err
	}
	context := filepath.Join(dir, "context")
	if err := w.prepare(context, host, version); err != nil {
		return sample{}, err
	}
	m := measurement{builder: b, dir: dir, context: context, host: host, repository: repository("run"), cached: w.cached, runs: w.runs}
	if w.cached {
		err = l.depot.clone(seed(w, b), m.repository)
	} else {
		err = l.depot.share("bases/"+w.base, m.repository+"/app")
	}
	if err != nil {
		return sample{}, err
	}
	s, err := l.measure(ctx, m)
	return s, errors.Join(err, l.depot.clear(m.repository), os.RemoveAll(context))
}

// String is a sample in a line of progress.
func (s sample) String() string {
	text := fmt.Sprintf("%6.2f s wall %6.2f s CPU %4d MiB RSS %5d MiB group %6.1f MB sent %4d requests %2d layers",
		s.Wall.Seconds(), s.CPU.Seconds(), s.RSS>>20, s.Memory>>20, float64(s.Sent)/1e6, s.Requests, s.Layers)
	if s.Failure != "" {
		text += "  FAILED: " + s.Failure
	}
	return text
}

// onceLimited builds a workload in one mode under the memory limit.
func (l *lab) onceLimited(ctx context.Context, w workload, b builder) (s sample, err error) {
	dir, err := l.stores.in(ctx, disk)
	if err != nil {
		return sample{}, err
	}
	name := strings.ReplaceAll(b.name, " ", "-")
	context := filepath.Join(dir, "context-"+name)
	if err := w.leaner().prepare(context, l.depot.host, 1); err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(context)) }()
	return l.measure(ctx, measurement{
		builder: b, dir: dir, context: context, host: l.depot.host, repository: repository("run", name), cached: w.cached, limit: memoryLimit,
	})
}
