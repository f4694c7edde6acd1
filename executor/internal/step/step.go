// Package step carries out one operation of a plan on a root filesystem. File
// content is streamed; nothing is held in memory but what a process is given.
//
// Links in names that a Dockerfile, an image or an archive supplies are
// resolved inside the root: no operation reads or writes outside of it.
package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// Inputs are what operations need besides the root. Each may be left out if no
// operation that needs it is carried out.
type Inputs struct {
	Context rootfs.FS          // the build context
	Ignore  *dockerfile.Ignore // what of Context does not exist for the build
	From    rootfs.FS          // the source of a COPY --from

	// Fetch starts a download. The caller closes what it returns.
	Fetch func(ctx context.Context, url string) (io.ReadCloser, URLInfo, error)
	// Repo fetches a repository. The caller closes it.
	Repo func(ctx context.Context, repo plan.Repo) (Repo, error)
	// Spool is the directory for downloads that are looked at before they are
	// used.
	Spool string
	// Wrote, if set, is told every name that an operation with Link puts into
	// the root, parents first: exactly what its layer holds.
	Wrote func(name string)
	// Run is the sandbox. It gives the process the identity, HOME included,
	// and returns once it and its children are gone.
	Run func(ctx context.Context, op plan.Run, who Identity) error
	// Now is the time that directories get which no source gives one; nil
	// leaves it to the filesystem.
	Now func() time.Time
	// Note takes text for people on what is unusual and no error; nil drops it.
	Note func(text string)
}

// Repo is a repository that was fetched.
type Repo struct {
	Files rootfs.FS
	Close func() error
}

// URLInfo describes a download.
type URLInfo struct {
	ModTime time.Time // of the Last-Modified header; zero if there is none
}

// Do carries out op on root. An error names the path or pattern it is about. A
// source that does not exist wraps fs.ErrNotExist. Errors of in.Run are
// returned as they are.
func Do(ctx context.Context, root rootfs.FS, op plan.Op, in Inputs) error {
	switch op := op.(type) {
	case plan.Copy:
		return doCopy(ctx, root, op, in)
	case plan.Add:
		return doAdd(ctx, root, op, in)
	case plan.Run:
		return doRun(ctx, root, op, in)
	case plan.Workdir:
		return doWorkdir(root, op, in)
	}
	return fmt.Errorf("operation %T is unknown", op)
}

// doRun looks up the user, makes a working directory that the image lacks, and
// hands over to the sandbox.
func doRun(ctx context.Context, root rootfs.FS, op plan.Run, in Inputs) error {
	if in.Run == nil {
		return errors.New("no process can be run here")
	}
	who, err := LookupUser(root, op.User)
	if err != nil {
		return err
	}
	if err := (&maker{root: root, in: in, mode: 0o755}).dirs(op.Dir); err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}
	return in.Run(ctx, op, who)
}

// doWorkdir makes a directory and its missing parents. A user that the image
// does not know is taken for root, as BuildKit does: there may be no
// /etc/passwd to know anybody.
func doWorkdir(root rootfs.FS, op plan.Workdir, in Inputs) error {
	m := &maker{root: root, in: in, mode: 0o755}
	if op.User != "" {
		owner, err := LookupOwner(root, op.User)
		if err != nil && !errors.Is(err, ErrUnknownUser) {
			return err
		}
		m.uid, m.gid = owner.UID, owner.GID
	}
	if err := m.dirs(op.Path); err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}
	return nil
}

// maker makes missing directories.
type maker struct {
	root     rootfs.FS
	in       Inputs
	mode     fs.FileMode
	uid, gid int
}

// dirs makes the directory p, links resolved, and its missing parents. What
// exists is left alone.
func (m *maker) dirs(p string) error {
	name, err := rootfs.Resolve(m.root, p)
	if err != nil {
		return err
	}
	return m.dir(name)
}

func (m *maker) dir(name string) error {
	e, err := m.root.Lstat(name)
	switch {
	case err == nil && e.Mode.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("/%s is not a directory", name)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if parent := rootfs.Parent(name); parent != name {
		if err := m.dir(parent); err != nil {
			return err
		}
	}
	return put(m.root, m.in, rootfs.Entry{Name: name, Mode: fs.ModeDir | m.mode, UID: m.uid, GID: m.gid, ModTime: m.in.now()}, nil)
}

func (in Inputs) now() time.Time {
	if in.Now == nil {
		return time.Time{}
	}
	return in.Now()
}

func (in Inputs) note(format string, args ...any) {
	if in.Note != nil {
		in.Note(fmt.Sprintf(format, args...))
	}
}

// put is FS.Put, but an extended attribute that the filesystem does not take
// is worth a note only.
func put(root rootfs.FS, in Inputs, e rootfs.Entry, content io.Reader) error {
	err := root.Put(e, content)
	if errors.Is(err, rootfs.ErrXattr) {
		in.note("%v", err)
		return nil
	}
	return err
}
