package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/build"
	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/image"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/progress"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/source"
	"github.com/kilnhook/kiln/executor/internal/step"
)

// Prefixes of --build-context values that are images.
const (
	imagePrefix  = "docker-image://"
	layoutPrefix = "oci-layout://"
)

// namedContexts reads --build-context: what the plan must know of each, and
// where those that are files come from.
func (c *config) namedContexts() (map[string]plan.NamedContext, error) {
	out := map[string]plan.NamedContext{}
	for _, v := range c.buildContexts {
		name, where, ok := strings.Cut(v, "=")
		if !ok || name == "" || where == "" {
			return nil, fmt.Errorf("--build-context %q: want name=directory or name=URL", v)
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("--build-context %s is given twice", name)
		}
		nc := plan.NamedContext{}
		switch {
		case strings.HasPrefix(where, imagePrefix):
			nc.Image = strings.TrimPrefix(where, imagePrefix)
			if nc.Image == "" {
				return nil, fmt.Errorf("--build-context %q names no image", v)
			}
		case strings.HasPrefix(where, layoutPrefix):
			nc.Image = where
		case strings.HasPrefix(where, "target:"), strings.HasPrefix(where, "input:"):
			return nil, fmt.Errorf("--build-context %q: only directories, docker-image://, oci-layout://, git and https:// are supported", v)
		}
		out[name] = nc
	}
	return out, nil
}

// contextPlace is where a context of files that the plan names comes from.
func (c *config) contextPlace(used string) string {
	for _, v := range c.buildContexts {
		name, where, _ := strings.Cut(v, "=")
		if plan.SameContext(name, used) {
			return where
		}
	}
	return ""
}

// contexts are the fetched contexts of a build besides the first.
type contexts struct {
	files   map[string]build.Files
	dirs    []string // that a build in place leaves alone
	closers []func() error
}

func (c *contexts) close() error {
	var errs []error
	for _, f := range c.closers {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// fetchContexts makes the named contexts available that the plan copies from.
func (s *session) fetchContexts(ctx context.Context, p *plan.Plan) (*contexts, error) {
	out := &contexts{files: map[string]build.Files{}}
	for n, name := range p.ContextsUsed() {
		if err := s.fetchContext(ctx, n, name, out); err != nil {
			return nil, errors.Join(fmt.Errorf("build context %s: %w", name, err), out.close())
		}
	}
	return out, nil
}

func (s *session) fetchContext(ctx context.Context, n int, name string, out *contexts) error {
	where := s.c.contextPlace(name)
	dir := filepath.Join(s.workDir, "context-"+strconv.Itoa(n))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("prepare work directory: %w", err)
	}
	opt, err := s.sourceOptions(dir)
	if err != nil {
		return err
	}
	opt.SubPath, opt.Stdin, opt.GitBranch = "", nil, ""
	if opt, err = s.withLogin(opt, where); err != nil {
		return err
	}
	var src *source.Context
	err = s.phase("fetch-"+name, "[context "+name+"] load "+source.Redact(where), progress.PhaseLoad, func(told func(done, total int64)) error {
		opt.Progress = told
		repo, err := plan.ParseRepo(where)
		switch {
		case err != nil && !strings.HasPrefix(where, "git://"):
			return err
		case err == nil && repo != nil:
			src, err = source.FetchRepository(ctx, repository(*repo), opt)
		default:
			src, err = source.Fetch(ctx, where, opt)
		}
		return err
	})
	if err != nil {
		return err
	}
	out.closers = append(out.closers, src.Close)
	out.dirs = append(out.dirs, src.Dir)
	files, err := rootfs.OpenDir(src.Dir)
	if err != nil {
		return err
	}
	out.closers = append(out.closers, files.Close)
	f := build.Files{FS: files}
	if !strings.Contains(where, "://") || strings.HasPrefix(where, "dir://") {
		if f.Ignore, err = readIgnoreFile(src.Dir, ".dockerignore"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	out.files[name] = f
	return nil
}

func knownHostsIn(dirs []string) []string {
	var out []string
	for _, dir := range dirs {
		out = append(out, filepath.Join(dir, "known_hosts"))
	}
	return out
}

func repository(r plan.Repo) source.Repository {
	return source.Repository{URL: r.URL, Ref: r.Ref, Commit: r.Commit, Subdir: r.Subdir, Submodules: r.Submodules, KeepGitDir: r.KeepGitDir}
}

// fetchRepo gets the repository that an ADD names.
func (s *session) fetchRepo(ctx context.Context, r plan.Repo) (step.Repo, error) {
	opt, err := s.sourceOptions(s.workDir)
	if err != nil {
		return step.Repo{}, err
	}
	// A Dockerfile gets no other keys than those that the user hands to it.
	opt.SSH.Agent, opt.SSH.KnownHosts, opt.SSH.Dirs = s.given.Agents["default"], append(opt.SSH.KnownHosts, knownHostsIn(opt.SSH.Dirs)...), nil
	if opt.SSH.Agent == "" && !strings.HasPrefix(r.URL, "http") {
		return step.Repo{}, fmt.Errorf("repository %s: a repository over ssh needs an agent: use --ssh default", source.Redact(r.URL))
	}
	if opt, err = s.withLogin(opt, r.URL); err != nil {
		return step.Repo{}, err
	}
	src, err := source.FetchRepository(ctx, repository(r), opt)
	if err != nil {
		return step.Repo{}, err
	}
	files, err := rootfs.OpenDir(src.Dir)
	if err != nil {
		return step.Repo{}, errors.Join(err, src.Close())
	}
	return step.Repo{Files: files, Close: func() error { return errors.Join(files.Close(), src.Close()) }}, nil
}

// readIgnoreFile reads one ignore file of a context.
func readIgnoreFile(contextDir, name string) (*dockerfile.Ignore, error) {
	dir, err := os.OpenRoot(contextDir)
	if err != nil {
		return nil, fmt.Errorf("open context: %w", err)
	}
	defer dir.Close()
	f, err := dir.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close()
	content, err := readAll(f)
	if err != nil {
		return nil, err
	}
	return dockerfile.ParseIgnore(name, content)
}

// layoutImage reads an image of a layout: "oci-layout://dir[:tag][@digest]".
func layoutImage(ref string, p v1.Platform) (v1.Image, error) {
	rest := strings.TrimPrefix(ref, layoutPrefix)
	dir, name, ok := strings.Cut(rest, "@")
	if i := strings.LastIndexByte(dir, ':'); i > 0 && !strings.Contains(dir[i:], "/") {
		if !ok {
			name = dir[i+1:]
		}
		dir = dir[:i]
	}
	return image.ReadLayout(dir, name, func(have v1.Platform) bool { return plan.PlatformFits(have, p) })
}
