package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/index"
	"github.com/go-git/go-git/v5/plumbing/object"
)

const (
	maxLinkTarget = 4096    // bytes; longer than any file system allows
	maxModules    = 1 << 20 // bytes of .gitmodules
	maxTreeDepth  = 1000    // directories in directories
)

// commitWriter writes the files of one commit.
type commitWriter struct {
	g        *gitFetch
	r        *gitRemote
	modTime  time.Time
	modules  []submodule
	pointers []pointer // to files in Git LFS
	index    []*index.Entry
}

// writeCommit writes the files of a commit to the directory at of the tree.
// It returns the submodules that are to be fetched.
func (g *gitFetch) writeCommit(ctx context.Context, r *gitRemote, spec gitSpec, c *object.Commit, at string) ([]submodule, error) {
	w := &commitWriter{g: g, r: r, modTime: c.Committer.When}
	root, err := r.tree(c.TreeHash)
	if err != nil {
		return nil, fmt.Errorf("read tree of commit %s: %w", c.Hash, err)
	}
	if err := w.write(ctx, root, ".", at, 0); err != nil {
		return nil, err
	}
	if len(w.pointers) > 0 {
		var lfsConfig []byte
		if i := slices.IndexFunc(root.Entries, func(e object.TreeEntry) bool { return e.Name == ".lfsconfig" && e.Mode.IsFile() }); i >= 0 {
			if lfsConfig, err = w.blob(root.Entries[i].Hash, maxModules); err != nil {
				return nil, fmt.Errorf("read .lfsconfig: %w", err)
			}
		}
		if err := w.fetchLFS(ctx, spec, lfsConfig); err != nil {
			return nil, err
		}
	}
	if spec.keepDir {
		if err := g.writeGitDir(r, spec, c, w.index); err != nil {
			return nil, err
		}
	}
	if !g.opt.GitSubmodules || len(w.modules) == 0 {
		return nil, nil
	}
	return w.resolveModules(root)
}

// write writes a tree that is called name in its repository.
func (w *commitWriter) write(ctx context.Context, t *object.Tree, name, at string, depth int) error {
	if depth > maxTreeDepth {
		return fmt.Errorf("directory %q lies too deep", name)
	}
	for _, e := range t.Entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := checkEntryName(e.Name); err != nil {
			return err
		}
		sub, to := path.Join(name, e.Name), path.Join(at, e.Name)
		if err := w.entry(ctx, e, sub, to, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *commitWriter) entry(ctx context.Context, e object.TreeEntry, name, to string, depth int) error {
	if w.g.keepDir && e.Mode != filemode.Dir {
		w.index = append(w.index, indexEntry(name, e))
	}
	switch e.Mode {
	case filemode.Dir:
		if err := w.g.tree.mkdir(to, 0o755, w.modTime); err != nil {
			return w.failed(name, err)
		}
		t, err := w.r.tree(e.Hash)
		if err != nil {
			return fmt.Errorf("read directory %q: %w", name, err)
		}
		return w.write(ctx, t, name, to, depth+1)
	case filemode.Regular, filemode.Deprecated:
		return w.failed(name, w.file(e.Hash, to, 0o644))
	case filemode.Executable:
		return w.failed(name, w.file(e.Hash, to, 0o755))
	case filemode.Symlink:
		target, err := w.blob(e.Hash, maxLinkTarget)
		if err == nil {
			err = w.g.tree.symlink(to, string(target), w.modTime)
		}
		return w.failed(name, err)
	case filemode.Submodule:
		w.modules = append(w.modules, submodule{name: name, at: to, commit: e.Hash})
		return w.failed(name, w.g.tree.mkdir(to, 0o755, w.modTime))
	}
	return fmt.Errorf("file %q has the unknown mode %s", name, e.Mode)
}

// checkEntryName refuses names that Git does not allow either.
func checkEntryName(name string) error {
	if name == "" || name == "." || name == ".." || strings.EqualFold(name, ".git") || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("the repository has a file with the forbidden name %q", name)
	}
	return nil
}

func (w *commitWriter) failed(name string, err error) error {
	switch {
	case err == nil || errors.As(err, new(*LimitError)):
		return err
	case errors.Is(err, fs.ErrPermission), errors.As(err, new(*fs.PathError)):
		err = writeFailed(w.g.dir, err)
	}
	return fmt.Errorf("check out %q: %w", name, err)
}

// file writes a file.
func (w *commitWriter) file(h plumbing.Hash, to string, mode fs.FileMode) error {
	content, err := w.r.pack.open(h)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	head := make([]byte, maxPointer+1)
	n, err := io.ReadFull(content, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if p, ok := parsePointer(head[:n]); ok {
		if !w.g.opt.GitSkipLFS {
			p.to, p.mode = to, mode
			w.pointers = append(w.pointers, p)
			return nil
		}
		if w.g.lfs++; w.g.lfs == 1 {
			w.g.firstLFS = to
		}
	}
	return w.g.tree.file(to, mode, w.modTime, io.MultiReader(bytes.NewReader(head[:n]), content))
}

// blob reads a small object.
func (w *commitWriter) blob(h plumbing.Hash, limit int64) ([]byte, error) {
	content, err := w.r.pack.open(h)
	if err != nil {
		return nil, err
	}
	defer func() { _ = content.Close() }()
	b, err := io.ReadAll(io.LimitReader(content, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("is larger than %d bytes", limit)
	}
	return b, err
}

// resolveModules finds the URLs of the submodules.
func (w *commitWriter) resolveModules(root *object.Tree) ([]submodule, error) {
	i := slices.IndexFunc(root.Entries, func(e object.TreeEntry) bool { return e.Name == ".gitmodules" && e.Mode.IsFile() })
	if i < 0 {
		return nil, errors.New("the repository has submodules but no file .gitmodules")
	}
	content, err := w.blob(root.Entries[i].Hash, maxModules)
	if err != nil {
		return nil, fmt.Errorf("read .gitmodules: %w", err)
	}
	urls, err := parseModules(content)
	if err != nil {
		return nil, err
	}
	for i, m := range w.modules {
		u, ok := urls[m.name]
		if !ok {
			return nil, fmt.Errorf("submodule %q is not in .gitmodules", m.name)
		}
		w.modules[i].url = u
	}
	return w.modules, nil
}
