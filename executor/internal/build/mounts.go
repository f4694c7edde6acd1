package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/step"
	"github.com/kilnhook/kiln/executor/internal/workspace"
)

// Mounts are what RUN --mount can ask for besides files of the build.
type Mounts struct {
	Caches  *workspace.Caches
	Secrets map[string][]byte // by id
	Agents  map[string]string // paths of the sockets of ssh agents by id
	// Alone says that nobody else may use a cache while a RUN does: in place it
	// is not where others look for it.
	Alone bool
}

// given is what one RUN is given: its mounts, and variables with secrets.
type given struct {
	mounts  []workspace.Mount
	env     []string
	release []func() error
	caches  map[string]string // paths of those that are open, by key
}

// close gives up what the process, which is gone, was given.
func (g *given) close() error {
	var errs []error
	for _, f := range g.release {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// give gets ready what a RUN mounts. What it returns must be closed in any case.
func (s *stage) give(ctx context.Context, tell *teller, mounts []plan.Mount) (*given, error) {
	g := &given{caches: map[string]string{}}
	for _, m := range mounts {
		out, err := s.mount(ctx, tell, g, m)
		if err != nil {
			return g, fmt.Errorf("--mount=type=%s: %w", m.Type, err)
		}
		if out != nil {
			g.add(*out)
		}
	}
	return g, nil
}

// add appends a mount. Of two at one target the later counts, in the place of
// the first.
func (g *given) add(m workspace.Mount) {
	for i := range g.mounts {
		if g.mounts[i].Target == m.Target {
			g.mounts[i] = m
			return
		}
	}
	g.mounts = append(g.mounts, m)
}

// mount says what is mounted for m; nil for nothing.
func (s *stage) mount(ctx context.Context, tell *teller, g *given, m plan.Mount) (*workspace.Mount, error) {
	out := &workspace.Mount{Target: m.Target, ReadOnly: m.ReadOnly}
	var err error
	switch m.Type {
	case plan.MountBind:
		out.Source, err = s.bindSource(ctx, tell, m)
	case plan.MountCache:
		out.Source, err = s.openCache(ctx, tell, g, m)
		out.Keep = true
	case plan.MountTmpfs:
		out.Tmpfs, out.Size = true, m.Size
	case plan.MountScript:
		out.File = &sandbox.MemoryFile{Content: []byte(m.Text), Mode: fs.FileMode(m.Mode)}
	case plan.MountSecret:
		return s.secret(g, m, out)
	case plan.MountSSH:
		path, ok := s.Mounts.Agents[m.ID]
		if !ok && m.Required {
			return nil, fmt.Errorf("no ssh agent %q was given: use --ssh %s", m.ID, m.ID)
		}
		if !ok {
			return nil, nil
		}
		out.Agent = &workspace.Agent{Path: path, Mode: fs.FileMode(m.Mode), UID: m.UID, GID: m.GID}
	default:
		err = errors.New("it is not supported")
	}
	return out, err
}

func (s *stage) secret(g *given, m plan.Mount, out *workspace.Mount) (*workspace.Mount, error) {
	value, ok := s.Mounts.Secrets[m.ID]
	if !ok && m.Required {
		return nil, fmt.Errorf("the secret %q was not given: use --secret id=%s,src=FILE", m.ID, m.ID)
	}
	if m.Env != "" {
		g.env = append(g.env, m.Env+"="+string(value))
	}
	if !ok || m.Target == "" {
		return nil, nil
	}
	out.File = &sandbox.MemoryFile{Content: value, Mode: fs.FileMode(m.Mode), UID: m.UID, GID: m.GID}
	return out, nil
}

// source returns the tree that a mount reads from, and what to call it.
func (s *stage) source(ctx context.Context, tell *teller, from plan.Source) (tree rootfs.FS, name string, err error) {
	if !from.IsFiles() {
		tree, err := s.from(ctx, from, tell.meter())
		return tree, from.String(), err
	}
	return s.contextTree(from)
}

// contextTree is what can be seen of the build context, or of a named one.
func (s *stage) contextTree(from plan.Source) (tree rootfs.FS, name string, err error) {
	f := s.files(from)
	switch {
	case from.Context != "":
		name = "the context " + from.Context
	case f.FS == nil:
		return nil, "", errors.New("there is no build context")
	default:
		name = "the build context"
	}
	return step.Filter(f.FS, f.Ignore), name, nil
}

// find resolves what a mount names in its source.
func find(tree rootfs.FS, from, name string) (string, error) {
	real, err := rootfs.Resolve(tree, name)
	if err == nil {
		_, err = tree.Lstat(real)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", fmt.Errorf("source /%s is not in %s", name, from)
	}
	return real, err
}

// bindSource returns the path of what a bind shows: where it lies, or a copy of
// it. Files of the build context belong to root, as with COPY, and those that
// the ignore file excludes are not there.
func (s *stage) bindSource(ctx context.Context, tell *teller, m plan.Mount) (string, error) {
	tree, from, err := s.source(ctx, tell, m.From)
	if err != nil {
		return "", err
	}
	name, err := find(tree, from, m.Source)
	if err != nil {
		return "", err
	}
	dir, onDisk := tree.(*rootfs.Dir)
	if m.From.IsFiles() {
		f := s.files(m.From)
		if dir, onDisk = f.FS.(*rootfs.Dir); onDisk {
			if onDisk, err = asItIs(f, name); err != nil {
				return "", err
			}
		}
	}
	if onDisk {
		return filepath.Join(dir.Path(), name), nil
	}
	s.copying.Lock()
	defer s.copying.Unlock()
	key := m.From.String() + "\x00" + name
	if path, ok := s.copies[key]; ok {
		return path, nil
	}
	path, err := s.copyOut(ctx, rootOwned{tree}, name)
	if err != nil {
		return "", err
	}
	s.copies[key] = path
	return path, nil
}

// asItIs tells whether a part of a context can be shown without making
// a copy of it.
func asItIs(f Files, name string) (bool, error) {
	if f.Ignore != nil {
		return false, nil
	}
	same := true
	err := rootfs.Walk(f.FS, name, func(e rootfs.Entry) error {
		same = same && e.UID == 0 && e.GID == 0
		return nil
	})
	return same, err
}

// copyOut copies a part of a tree to the spool and returns the path of the copy.
func (s *stage) copyOut(ctx context.Context, tree rootfs.FS, name string) (string, error) {
	dir, err := os.MkdirTemp(s.Spool, "mount-*")
	if err != nil {
		return "", fmt.Errorf("prepare mount: %w", err)
	}
	dst, err := rootfs.OpenDir(dir)
	if err != nil {
		return "", err
	}
	defer dst.Close()
	return filepath.Join(dir, "copy"), workspace.CopyTree(ctx, tree, name, dst, "copy")
}

// rootOwned shows a tree whose files all belong to root.
type rootOwned struct{ rootfs.FS }

func (r rootOwned) Lstat(name string) (rootfs.Entry, error) {
	e, err := r.FS.Lstat(name)
	e.UID, e.GID = 0, 0
	return e, err
}

// openCache returns the directory of a cache, the RUN's until it is closed. What
// it begins with tells one cache from another, as its id does.
func (s *stage) openCache(ctx context.Context, tell *teller, g *given, m plan.Mount) (string, error) {
	if s.Mounts.Caches == nil {
		return "", errors.New("there is no directory for caches")
	}
	begins, fill, err := s.beginning(ctx, tell, m)
	if err != nil {
		return "", err
	}
	key := fmt.Sprintf("%q %s %q %o %d:%d", m.ID, begins, m.Source, m.Mode, m.UID, m.GID)
	if path, ok := g.caches[key]; ok {
		return path, nil
	}
	spec := workspace.CacheSpec{
		Key: key, Sharing: workspace.Sharing(m.Sharing), Mode: fs.FileMode(m.Mode), UID: m.UID, GID: m.GID, Fill: fill,
		Wait: func() { tell.note("waiting for the cache " + m.ID + ", which another build uses") },
	}
	if s.Mounts.Alone && spec.Sharing == workspace.SharedCache {
		spec.Sharing = workspace.LockedCache
	}
	path, release, err := s.Mounts.Caches.Open(ctx, spec)
	if err != nil {
		return "", err
	}
	g.release = append(g.release, release)
	g.caches[key] = path
	return path, nil
}

// beginning identifies what a new cache is filled with, and returns what does
// it: "" and nil for nothing.
func (s *stage) beginning(ctx context.Context, tell *teller, m plan.Mount) (id string, fill func(*rootfs.Dir) error, err error) {
	from := m.From
	if from.IsContext() {
		from = plan.Scratch()
	}
	if from.IsScratch() && m.Source == "." {
		return "", nil, nil
	}
	tree, where, err := s.source(ctx, tell, from)
	if err != nil {
		return "", nil, err
	}
	name, err := find(tree, where, m.Source)
	if err != nil {
		return "", nil, err
	}
	e, err := tree.Lstat(name)
	if err == nil && !e.Mode.IsDir() {
		err = fmt.Errorf("source /%s is not a directory", m.Source)
	}
	if err != nil {
		return "", nil, err
	}
	if id = from.Digest.String(); from.Stage != nil || from.Context != "" {
		h := sha256.New()
		if err := hashTree(h, tree, name); err != nil {
			return "", nil, err
		}
		id = hex.EncodeToString(h.Sum(nil))
	}
	return id, func(dst *rootfs.Dir) error { return workspace.CopyTree(ctx, tree, name, dst, ".") }, nil
}
