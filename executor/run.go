package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/stream"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/executor/internal/build"
	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/image"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/registry"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/source"
	"github.com/kilnhook/kiln/executor/internal/store"
	"github.com/kilnhook/kiln/executor/internal/workspace"
)

// build does everything between the flags and the digest.
func (s *session) build(ctx context.Context) error {
	s.tellIsolation()
	s.tellIgnored()
	client, err := s.newClient()
	if err == nil {
		s.given, err = s.mounts()
	}
	if err != nil {
		return fault(events.ClassConfig, err)
	}
	push, checked, err := s.preparePush(ctx, client)
	if err != nil {
		return fault(events.ClassPush, err)
	}
	defer client.Close()
	if s.push = push; push != nil {
		defer push.Close(ctx)
	}
	src, err := s.fetch(ctx)
	if err != nil {
		return errors.Join(checked(), fault(events.ClassSource, err))
	}
	defer src.Close()
	s.source = src.Revision
	images := s.newImages(client)
	p, ignore, err := s.plan(ctx, src, images, client)
	if err != nil {
		return errors.Join(checked(), err)
	}
	if s.c.dryRun {
		s.answer.WriteString(p.String())
		return nil
	}
	if yes, err := s.printsPlan(); err != nil {
		return fault(events.ClassConfig, err)
	} else if yes {
		s.answer.WriteString(p.String())
	}
	res, err := s.carryOut(ctx, src, p, ignore, images, push, checked)
	if cerr := checked(); cerr != nil {
		return cerr // the reason for all else
	}
	if err != nil {
		return err
	}
	defer s.keepRoster(ctx)()
	return s.deliver(ctx, res, push)
}

func (s *session) tellIsolation() {
	switch {
	case s.iso.mode == sandbox.Overlay && s.iso.ns.User:
		s.note("isolation: overlay, in a user namespace")
	case s.iso.mode == sandbox.Overlay:
		s.note("isolation: overlay")
	case s.iso.why != "":
		s.note("isolation: inplace, because %s", s.iso.why)
	default:
		s.note("isolation: inplace")
	}
}

// fetch makes the build context available.
func (s *session) fetch(ctx context.Context) (*source.Context, error) {
	dir := filepath.Join(s.workDir, "context")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("prepare work directory: %w", err)
	}
	opt, err := s.sourceOptions(dir)
	if err != nil {
		return nil, err
	}
	var src *source.Context
	err = s.phase("fetch", "load context "+source.Redact(s.c.context), progress.PhaseLoad, func(told func(done, total int64)) error {
		opt.Progress = told
		src, err = source.Fetch(ctx, s.c.context, opt)
		return err
	})
	if err == nil && src.Revision.Version != "" {
		s.note("context is %s, sha256:%s", src.Revision.Version, src.Revision.SHA256)
	}
	return src, err
}

// plan reads the Dockerfile and plans the build. With a client the layer cache is
// opened and asked meanwhile.
func (s *session) plan(ctx context.Context, src *source.Context, images *images, client *registry.Client) (*plan.Plan, *dockerfile.Ignore, error) {
	name, content, err := s.readDockerfile(ctx, src.Dir)
	if err != nil {
		return nil, nil, fault(events.ClassBuild, err)
	}
	args, err := s.c.arguments(s.p.lookup)
	if err != nil {
		return nil, nil, fault(events.ClassConfig, err)
	}
	form := dockerfile.Options{Check: args["BUILDKIT_DOCKERFILE_CHECK"], Syntax: args["BUILDKIT_SYNTAX"]}
	file, err := form.Parse(name, content)
	if err != nil {
		return nil, nil, fault(events.ClassBuild, err)
	}
	s.found = file.Warnings
	ignore, err := s.readIgnore(src.Dir, name)
	if err != nil {
		return nil, nil, fault(events.ClassBuild, err)
	}
	opt := plan.Options{Target: s.c.target, Args: args, Labels: s.c.labelMap(), Ignore: ignore, AllStages: s.c.checkOnly && s.c.target == ""}
	if opt.Contexts, err = s.c.namedContexts(); err != nil {
		return nil, nil, fault(events.ClassConfig, err)
	}
	if s.c.platform != "" {
		if opt.Platform, err = plan.ParsePlatform(s.c.platform); err != nil {
			return nil, nil, fault(events.ClassConfig, err)
		}
	}
	if s.c.cache && !s.c.dryRun && client != nil {
		if err := s.openLayers(ctx, client, content, file); err != nil {
			return nil, nil, fault(events.ClassConfig, err)
		}
	}
	opt.Base = func(ref string, p v1.Platform) (plan.Base, error) {
		s.mountsFrom(ctx, ref)
		return images.base(ctx, ref, p)
	}
	var out *plan.Plan
	err = s.phase("plan", "load Dockerfile and base images", progress.PhaseLoad, func(func(int64, int64)) error {
		out, err = plan.New(file, opt)
		return err
	})
	if err != nil {
		return nil, nil, fault(events.ClassBuild, err)
	}
	s.found = out.Warnings
	for _, w := range out.Warnings {
		if !s.c.checkOnly {
			s.note("warning: %s", w)
		}
	}
	if len(out.Unused) > 0 && !s.c.checkOnly {
		s.note("warning: no ARG in %s declares %s, so --build-arg changes nothing", file.Name, strings.Join(out.Unused, ", "))
	}
	s.res.Platform = out.Platform.String()
	s.res.Bases = basesOf(out)
	return out, ignore, nil
}

func basesOf(p *plan.Plan) []events.BaseInfo {
	var out []events.BaseInfo
	for _, st := range p.Stages {
		b := events.BaseInfo{Ref: st.Base.Ref, Digest: st.Base.Digest.String()}
		if st.Base.Digest != (v1.Hash{}) && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// carryOut builds the plan, pushing layers as they come.
func (s *session) carryOut(ctx context.Context, src *source.Context, p *plan.Plan, ignore *dockerfile.Ignore, imgs *images, push *registry.Push, checked func() error) (build.Result, error) {
	for _, dir := range []string{"root", "layers"} {
		if err := os.Mkdir(filepath.Join(s.workDir, dir), 0o755); err != nil {
			return build.Result{}, fmt.Errorf("prepare work directory: %w", err)
		}
	}
	files, err := rootfs.OpenDir(src.Dir)
	if err != nil {
		return build.Result{}, fmt.Errorf("open context: %w", err)
	}
	defer files.Close()
	named, err := s.fetchContexts(ctx, p)
	if err != nil {
		return build.Result{}, fault(events.ClassSource, err)
	}
	defer named.close()
	opt, kept, err := s.buildOptions(p)
	if err != nil {
		return build.Result{}, err
	}
	ws, err := newWorkspace(s.c, s.iso, filepath.Join(s.workDir, "root"), slices.Concat(s.ownPaths(), named.dirs, []string{src.Dir}), s.extraction(kept))
	if err != nil {
		return build.Result{}, err
	}
	s.cleanup = ws.cleanup
	opt.Workspace, opt.Context, opt.Ignore, opt.Contexts, opt.Image = ws, files, ignore, named.files, imgs.byDigest
	outlines := workspace.NewOutlines(opt.Spool, kept, s.p.now)
	opt.Outlines = outlines
	opt.Allowed = checked
	if push != nil {
		opt.Upload, opt.Offer, opt.Share = s.uploader(push), push.Offer, imgs.share(ctx, push, opt.Spool)
	}
	begun := s.p.now()
	res, err := build.Build(ctx, p, opt)
	s.res.DurationMS["build"] = s.p.now().Sub(begun).Milliseconds()
	s.res.Cache = events.CacheInfo{Hits: res.Hits, Misses: res.Misses}
	return res, errors.Join(err, outlines.Close(), ws.close(), kept.Close())
}

// extraction says how images are extracted, and who is told.
func (s *session) extraction(kept *store.Store) workspace.Report {
	r := workspace.Report{
		Bytes: func(name string, done, total int64) {
			s.sink.Send(progress.Event{Time: s.p.now(), Kind: progress.KindBytes, Name: name, Phase: progress.PhaseExtract, Current: done, Total: total})
		},
		Note: func(text string) { s.note("%s", text) }, Retries: s.c.extractRetry, Index: kept.Record,
		Spool: filepath.Join(s.workDir, "layers"),
	}
	if s.c.storeDir != "" {
		r.Image = kept.Image
	}
	return r
}

// buildOptions are those that flags say, and the store that goes with them.
func (s *session) buildOptions(p *plan.Plan) (opt build.Options, kept *store.Store, err error) {
	opt = build.Options{
		Parallel: parallelStages(s.iso, s.p.memory),
		Spool:    filepath.Join(s.workDir, "layers"), Fetch: s.fetchURL, Repo: s.fetchRepo,
		CacheCopies: s.c.cacheCopies, NoCacheRuns: !s.c.cacheRuns, SingleLayer: s.c.singleSnapshot, Materialize: s.c.materialize,
		Progress: s.sink, Now: s.p.now, Mounts: s.given,
	}
	if err := s.imageForm(p, &opt); err != nil {
		return opt, nil, err
	}
	known := store.Options{Lasting: s.c.storeDir != "", Size: int64(s.c.storeSize), Now: s.p.now, Log: s.log}
	if s.layers != nil {
		opt.Cache, known.Remote = s.layers, s.layers
	}
	kept, err = store.Open(s.storeDir(), known)
	return opt, kept, err
}

// imageForm says what form the image has, whatever is in it.
func (s *session) imageForm(p *plan.Plan, opt *build.Options) (err error) {
	switch {
	case p.Epoch != nil:
		opt.Epoch = *p.Epoch
	case s.c.reproducible:
		opt.Epoch = time.Unix(0, 0).UTC()
	}
	opt.DockerTypes = s.c.imageFormat == "docker"
	opt.Exclude, opt.ExcludeName = s.c.exclude()
	if opt.Annotations, err = s.c.annotationMap(); err != nil {
		return err
	}
	opt.Compression, err = s.c.layerCompression()
	return err
}

// uploader sends layers in the background. A layer that is still being written
// can be read once only by the upload; should that break, the layer is sent
// again in the end, when it is a file like any other.
func (s *session) uploader(push *registry.Push) func(context.Context, v1.Layer, func(done, total int64)) error {
	return func(ctx context.Context, l v1.Layer, told func(done, total int64)) error {
		_, derr := l.Digest()
		err := push.Upload(ctx, l, told)
		if err != nil && errors.Is(derr, stream.ErrNotComputed) && ctx.Err() == nil {
			if _, now := l.Digest(); now == nil || errors.Is(now, stream.ErrNotComputed) {
				s.note("a layer will be sent again: %v", err)
				return nil
			}
		}
		return fault(events.ClassPush, err)
	}
}

// deliver puts the image where it was asked for: the registry, an archive, a
// layout.
func (s *session) deliver(ctx context.Context, res build.Result, push *registry.Push) error {
	if err := s.describe(res); err != nil {
		return err
	}
	if push != nil {
		err := s.phase("push", "push "+s.c.destinations[0], progress.PhasePush, func(func(int64, int64)) error {
			_, err := push.Finish(ctx, res.Image, s.c.pushByDigest)
			return err
		})
		if err != nil {
			return fault(events.ClassPush, err)
		}
	}
	if s.c.layoutPath != "" {
		err := s.phase("layout", "write OCI layout "+s.c.layoutPath, progress.PhaseExport, func(func(int64, int64)) error {
			return image.WriteLayout(ctx, s.c.layoutPath, res.Image, s.imageName())
		})
		if err != nil {
			return err
		}
	}
	if s.c.tarPath != "" {
		err := s.phase("tar", "write archive "+s.c.tarPath, progress.PhaseExport, func(func(int64, int64)) error {
			return image.WriteTar(ctx, s.c.tarPath, res.Image, s.archiveTags())
		})
		if err != nil {
			return err
		}
	}
	digest, err := res.Image.Digest()
	if err != nil {
		return err
	}
	// From here on the image is where it should be.
	s.res.Digest = digest.String()
	for _, d := range s.c.destinations {
		repo, _ := splitDestination(d)
		fmt.Fprintf(&s.answer, "%s@%s\n", repo, digest)
	}
	return nil
}
