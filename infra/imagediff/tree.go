package imagediff

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// File is what an image has at a path. Times are not compared.
type File struct {
	Type   string `json:"type"` // file, directory, symlink, char, block, fifo
	Mode   int64  `json:"mode"` // permission bits, setuid, setgid and sticky
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Size   int64  `json:"size"`             // bytes of a file
	Sum    string `json:"sha256,omitempty"` // of a file's content
	Target string `json:"target,omitempty"` // of a symlink, or the numbers of a device
}

// Kind is what became of a path.
type Kind string

// What can become of a path.
const (
	Added   Kind = "added"
	Removed Kind = "removed"
	Changed Kind = "changed"
)

// Change is a path that differs.
type Change struct {
	Path string `json:"path"` // without a slash before it
	Kind Kind   `json:"kind"`
	Was  *File  `json:"was,omitempty"`
	Is   *File  `json:"is,omitempty"`
}

// Grown is how many bytes more than before there are.
func (c Change) Grown() int64 {
	var n int64
	if c.Is != nil {
		n += c.Is.Size
	}
	if c.Was != nil {
		n -= c.Was.Size
	}
	return n
}

func change(path string, was, is *File) (Change, bool) {
	c := Change{Path: path, Was: was, Is: is}
	switch {
	case was == nil && is == nil, was != nil && is != nil && *was == *is:
		return c, false
	case was == nil:
		c.Kind = Added
	case is == nil:
		c.Kind = Removed
	default:
		c.Kind = Changed
	}
	return c, true
}

// stack is what layers make of the paths that they name (image-spec, layer.md).
type stack struct {
	files  map[string]*File // nil: the path is gone, and what was below it
	hidden map[string]bool  // directories of which nothing lower is seen
}

func newStack() stack { return stack{files: map[string]*File{}, hidden: map[string]bool{}} }

// alone reports whether nothing need be known of the layers below to compare with
// another stack: every path is named by both and nothing is taken away.
func (s stack) alone(other stack) bool {
	if len(s.hidden) > 0 {
		return false
	}
	for p, f := range s.files {
		if f == nil {
			return false
		}
		if o, ok := other.files[p]; !ok || o == nil || (o.Type == "directory") != (f.Type == "directory") {
			return false
		}
	}
	return true
}

// over is what is at a path if the stack stands on base; nil if there is nothing.
func (s stack) over(base stack, p string) *File {
	if f, ok := s.files[p]; ok {
		return f
	}
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		f, ok := s.files[dir]
		if s.hidden[dir] || ok && (f == nil || f.Type != "directory") {
			return nil
		}
	}
	if s.hidden["."] {
		return nil
	}
	return base.files[p]
}

// paths are those that two stacks on a base may make different.
func paths(base, a, b stack) []string {
	seen := map[string]bool{}
	for _, s := range []stack{a, b} {
		for p := range s.files {
			seen[p] = true
		}
	}
	for p := range base.files {
		if !seen[p] && (a.over(base, p) == nil) != (b.over(base, p) == nil) {
			seen[p] = true
		}
	}
	out := make([]string, 0, len(seen))
	for p := range seen {
		out = append(out, p)
	}
	return out
}

// reader reads layers, within limits.
type reader struct {
	opt   Options
	bytes int64
	files int
}

func (r *reader) stack(ctx context.Context, layers []v1.Layer) (stack, error) {
	s := newStack()
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return s, err
		}
		size, err := l.Size()
		if err != nil {
			return s, fmt.Errorf("read layer %s: %w", digest, err)
		}
		if r.bytes += size; r.bytes > r.opt.MaxBytes {
			return s, &TooLargeError{fmt.Sprintf("more than %d bytes of layers would have to be read", r.opt.MaxBytes)}
		}
		if r.opt.Told != nil {
			r.opt.Told(r.bytes)
		}
		if err := r.layer(ctx, l, s); err != nil {
			return s, fmt.Errorf("read layer %s: %w", digest, err)
		}
	}
	return s, nil
}

func (r *reader) layer(ctx context.Context, l v1.Layer, s stack) (err error) {
	rc, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	for tr := tar.NewReader(rc); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.files++; r.files > r.opt.MaxFiles {
			return &TooLargeError{fmt.Sprintf("their layers have more than %d files", r.opt.MaxFiles)}
		}
		if err := s.put(h, tr); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

// put makes of a stack what an entry of a layer makes of it.
func (s stack) put(h *tar.Header, content io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if base == ".wh..wh..opq" {
		s.drop(dir)
		s.hidden[dir] = true
		return nil
	}
	if gone, ok := strings.CutPrefix(base, ".wh."); ok {
		name = path.Join(dir, gone)
		s.drop(name)
		s.files[name] = nil
		return nil
	}
	if name == "" {
		name = "."
	}
	f, err := s.file(h, content)
	if err != nil {
		return err
	}
	if old := s.files[name]; old != nil && old.Type == "directory" && f.Type != "directory" {
		s.drop(name)
	}
	if old, ok := s.files[name]; ok && old == nil && f.Type == "directory" {
		s.hidden[name] = true // it was taken away and made anew
	}
	s.files[name] = f
	return nil
}

func (s stack) file(h *tar.Header, content io.Reader) (*File, error) {
	f := &File{Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid}
	switch h.Typeflag {
	case tar.TypeDir:
		f.Type = "directory"
	case tar.TypeSymlink:
		f.Type, f.Target = "symlink", h.Linkname
	case tar.TypeLink:
		target := strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		if to := s.files[target]; to != nil {
			c := *to
			return &c, nil
		}
		f.Type, f.Target = "file", target // of a lower layer
	case tar.TypeChar, tar.TypeBlock:
		f.Type, f.Target = "char", fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
		if h.Typeflag == tar.TypeBlock {
			f.Type = "block"
		}
	case tar.TypeFifo:
		f.Type = "fifo"
	default:
		f.Type = "file"
		sum := sha256.New()
		n, err := io.Copy(sum, content)
		if err != nil {
			return nil, err
		}
		f.Size, f.Sum = n, hex.EncodeToString(sum.Sum(nil))
	}
	return f, nil
}

// drop forgets what is below a directory.
func (s stack) drop(dir string) {
	for name := range s.files {
		if dir == "." && name != "." || strings.HasPrefix(name, dir+"/") {
			delete(s.files, name)
		}
	}
	for name := range s.hidden {
		if strings.HasPrefix(name, dir+"/") {
			delete(s.hidden, name)
		}
	}
}

// comparePaths orders a directory before what is in it, and that before what
// follows the directory.
func comparePaths(a, b string) int {
	return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}
