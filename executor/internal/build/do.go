package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/step"
	"github.com/kilnhook/kiln/executor/internal/workspace"
)

// do carries out an operation on the stage's root.
func (s *stage) do(ctx context.Context, tell *teller, op plan.Op) (err error) {
	end := tell.meter().Begin(phaseOf(op), "")
	defer func() { end(0, err) }()
	s.wrote = nil
	in := step.Inputs{
		Context: s.Context, Ignore: s.Ignore, Fetch: s.Fetch, Repo: s.Repo, Spool: s.Spool, Now: s.created,
		Note: tell.note, Wrote: func(name string) { s.wrote = append(s.wrote, name) },
		Run: func(ctx context.Context, op plan.Run, who step.Identity) error {
			return s.runProcess(ctx, tell, op, who)
		},
	}
	if c, ok := op.(plan.Copy); ok {
		if c.From.IsFiles() {
			from := s.files(c.From)
			in.Context, in.Ignore = from.FS, from.Ignore
		} else {
			from, err := s.from(ctx, c.From, tell.meter())
			if err != nil {
				return err
			}
			in.From = from
		}
	}
	return step.Do(ctx, s.root.FS(), op, in)
}

// files are those of the build context or of a named one.
func (b *builder) files(src plan.Source) Files {
	if src.Context != "" {
		return b.Contexts[src.Context]
	}
	return Files{b.Context, b.Ignore}
}

// from returns the tree that a COPY --from or a mount reads. meter is told if an
// image is extracted for it.
func (s *stage) from(ctx context.Context, src plan.Source, meter progress.Meter) (rootfs.FS, error) {
	if src.IsScratch() {
		return rootfs.NewMem(), nil
	}
	if src.Stage != nil {
		v := s.stages[*src.Stage].view
		if v == nil {
			return nil, fmt.Errorf("stage %s was not kept to copy from", s.stageName(*src.Stage))
		}
		return v, nil
	}
	s.mu.Lock()
	v := s.images[src.Digest]
	if v == nil {
		v = &view{}
		s.images[src.Digest] = v
	}
	s.mu.Unlock()
	v.once.Do(func() {
		var img v1.Image
		if img, v.err = s.Image(ctx, src.Digest); v.err == nil {
			paths, shown := s.readsOfImage(src.Digest)
			v.tree, v.err = s.viewOf(ctx, img, paths, shown, meter)
		}
	})
	return v.tree, v.err
}

// view is an image that steps copy from.
type view struct {
	once sync.Once
	tree rootfs.FS
	err  error
}

// viewOf returns an image to copy from, of which the paths will be read. It is
// extracted if it is shown to a process, or is extracted for another reason.
func (b *builder) viewOf(ctx context.Context, img v1.Image, paths []string, shown bool, meter progress.Meter) (rootfs.FS, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	layers, err := imageOf(img)
	if err != nil {
		return nil, err
	}
	layers.Meter = meter
	if b.Outlines != nil && !shown && !b.extracts(digest) {
		return b.Outlines.Image(ctx, layers, paths)
	}
	return b.Workspace.Image(ctx, layers)
}

// extracts tells whether an image is extracted for a stage, into a directory that
// it can be copied from as well.
func (b *builder) extracts(digest v1.Hash) bool {
	if _, ok := b.Workspace.(*workspace.Overlay); !ok {
		return false
	}
	for _, s := range b.stages {
		if s.parent == nil && s.plan.Base.Digest == digest && s.use.needed() && s.onDisk(0) {
			return true
		}
	}
	return false
}

// readsOfImage lists what is read from an image that is no stage, and whether it is
// shown to a process.
func (b *builder) readsOfImage(digest v1.Hash) (paths []string, shown bool) {
	for _, s := range b.stages {
		if !s.use.needed() {
			continue
		}
		for n, op := range s.operations {
			if s.foreseenHit(n) {
				continue
			}
			switch op := op.(type) {
			case plan.Copy:
				if op.From.Stage == nil && op.From.Digest == digest {
					paths = append(paths, op.Reads()...)
				}
			case plan.Run:
				for _, m := range op.Mounts {
					shown = shown || m.From.Stage == nil && m.From.Digest == digest
				}
			}
		}
	}
	return paths, shown
}

// runProcess runs the process of a RUN and tells what it prints.
func (s *stage) runProcess(ctx context.Context, tell *teller, op plan.Run, who step.Identity) error {
	given, err := s.give(ctx, tell, op.Mounts)
	if err != nil {
		return errors.Join(err, given.close())
	}
	last := &tail{}
	out := &printer{tell: tell, stream: 1, tail: last}
	diag := &printer{tell: tell, stream: 2, tail: last}
	err = s.root.Run(ctx, sandbox.Process{
		Args: op.Args, Env: environment(op, who, given.env), Dir: op.Dir,
		UID: who.UID, GID: who.GID, Groups: who.Groups,
		Stdout: out, Stderr: diag, NoNetwork: op.Network == "none", Hostname: op.Hostname,
	}, given.mounts...)
	out.end()
	diag.end()
	err = errors.Join(err, given.close())
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return &RunError{Err: meantJSON(op.Args, exit, err), Tail: last.last()}
	}
	return err
}

// meantJSON adds to the error of a shell that found no program what was most likely
// meant: an array that is not JSON is no array, and the shell's to read.
func meantJSON(args []string, exit *sandbox.ExitError, err error) error {
	text := strings.TrimSpace(args[len(args)-1])
	if exit.Code != 127 || len(args) < 2 || !strings.HasPrefix(text, `["`) && !strings.HasPrefix(text, `['`) {
		return err
	}
	return fmt.Errorf("%w (what follows RUN is not JSON, so the shell got it: an array needs double quotes, commas and a bracket at its end)", err)
}

// environment is what the process sees: the image's variables, proxies and
// secrets, of which a later one replaces an earlier one of its name, and, if
// none is it or it is empty, the HOME of the user.
func environment(op plan.Run, who step.Identity, secrets []string) []string {
	at := map[string]int{}
	var out []string
	for _, kv := range slices.Concat(op.Env, op.Proxy, secrets) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			out[i] = kv
			continue
		}
		at[name] = len(out)
		out = append(out, kv)
	}
	switch i, ok := at["HOME"]; {
	case !ok:
		out = append(out, "HOME="+who.Home)
	case out[i] == "HOME=":
		out[i] += who.Home
	}
	return out
}

var _ Workspace = (*workspace.Overlay)(nil)
