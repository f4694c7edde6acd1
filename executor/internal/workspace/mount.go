package workspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
)

// Mount is something that one RUN sees and that is no part of the root: exactly
// one of Source, File, Agent and Tmpfs says what. In place, where nothing can be
// mounted, it is put at its target before the process starts and taken away
// when it has ended, and that the process may not write is not enforced.
type Mount struct {
	Target   string // absolute; links are resolved in the root
	ReadOnly bool

	Source string // path of a file or directory of the executor
	Keep   bool   // what is written to Source stays there; otherwise it is thrown away

	File  *sandbox.MemoryFile
	Agent *Agent

	Tmpfs bool
	Size  int64 // of a Tmpfs, in bytes; 0 is the kernel's default; in place it is not enforced
}

// Agent is a socket at Target behind which the socket at Path answers.
type Agent struct {
	Path     string
	Mode     fs.FileMode
	UID, GID int
}

// givenMounts are the mounts of one RUN in an overlay.
type givenMounts struct {
	dir  string // for what they need on disk; "" until something does
	stop []func() error
}

// close ends what the mounts need, once the process is gone.
func (g *givenMounts) close() error {
	var errs []error
	for _, stop := range g.stop {
		errs = append(errs, stop())
	}
	if g.dir != "" {
		errs = append(errs, os.RemoveAll(g.dir))
	}
	return errors.Join(errs...)
}

// prepare says what the sandbox mounts for m. parent is where there is room.
func (g *givenMounts) prepare(ctx context.Context, parent string, n int, m Mount) (sandbox.Mount, error) {
	out := sandbox.Mount{Target: m.Target, ReadOnly: m.ReadOnly, Source: m.Source, File: m.File, Tmpfs: m.Tmpfs, Size: m.Size}
	if m.Agent == nil && (m.Source == "" || m.ReadOnly || m.Keep) {
		return out, nil
	}
	if g.dir == "" {
		var err error
		if g.dir, err = os.MkdirTemp(parent, "mounts-*"); err != nil {
			return out, fmt.Errorf("prepare mounts: %w", err)
		}
	}
	dir := filepath.Join(g.dir, fmt.Sprint(n))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return out, fmt.Errorf("prepare mounts: %w", err)
	}
	if m.Agent != nil {
		stop, err := forward(filepath.Join(dir, "agent"), *m.Agent)
		if err != nil {
			return out, err
		}
		g.stop = append(g.stop, stop)
		out.Source = filepath.Join(dir, "agent")
		return out, nil
	}
	return out, discard(ctx, &out, dir)
}

// discard makes room for what is written to a mount and thrown away.
func discard(ctx context.Context, m *sandbox.Mount, dir string) error {
	fi, err := os.Lstat(m.Source)
	if err != nil {
		return fmt.Errorf("prepare mounts: %w", err)
	}
	if !fi.IsDir() {
		m.Source, err = copyBeside(ctx, m.Source, dir, "file")
		return err
	}
	for _, name := range []string{"u", "w"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return fmt.Errorf("prepare mounts: %w", err)
		}
	}
	m.Discard = dir
	// The mount's root directory shows the upper one's mode and owner.
	return copyEntry(m.Source, filepath.Join(dir, "u"))
}

// copyEntry gives the directory dst what is to be said of the directory src.
func copyEntry(src, dst string) error {
	from, err := rootfs.OpenDir(src)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := rootfs.OpenDir(dst)
	if err != nil {
		return err
	}
	defer to.Close()
	e, err := from.Lstat(".")
	if err != nil {
		return err
	}
	return to.Put(e, nil)
}

// copyBeside copies the file or directory at path into the directory dir, by a
// new name, and returns the path of the copy.
func copyBeside(ctx context.Context, path, dir, name string) (string, error) {
	src, err := rootfs.OpenDir(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	defer src.Close()
	dst, err := rootfs.OpenDir(dir)
	if err != nil {
		return "", err
	}
	defer dst.Close()
	return filepath.Join(dir, name), CopyTree(ctx, src, filepath.Base(path), dst, name)
}

// CopyTree makes what src has at from, with everything below it, the to of dst,
// whose directory must exist: owners, modes, times, links and attributes
// included. Sockets are left out.
func CopyTree(ctx context.Context, src rootfs.FS, from string, dst rootfs.FS, to string) error {
	c := &copier{src: src, dst: dst, skip: func(string) bool { return false }, done: map[string]bool{}, links: map[rootfs.Inode]string{}}
	c.rename = func(name string) string {
		if name == from {
			return to
		}
		if from == "." {
			return rootfs.Join(to, name)
		}
		return rootfs.Join(to, name[len(from)+1:])
	}
	if err := c.tree(ctx, from); err != nil {
		return fmt.Errorf("copy /%s: %w", from, err)
	}
	// What was put into a directory moved its time.
	return c.directoryTimes(from)
}
