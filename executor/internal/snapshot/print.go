package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

func readlink(root rootfs.FS, name string) (string, error) {
	e, err := root.Lstat(name)
	return e.Link, err
}

func xattrHash(root rootfs.FS, name string) (uint64, error) {
	e, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || len(e.Xattrs) == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return hashXattrs(e.Xattrs), nil
}

// hashXattrs returns 0 for none and never 0 otherwise.
func hashXattrs(xattrs map[string]string) uint64 {
	if len(xattrs) == 0 {
		return 0
	}
	names := make([]string, 0, len(xattrs))
	for n := range xattrs {
		names = append(names, n)
	}
	slices.Sort(names)
	h := xxh3.New()
	for _, n := range names {
		_, _ = fmt.Fprintf(h, "%d:%s%d:%s", len(n), n, len(xattrs[n]), xattrs[n])
	}
	return h.Sum64() | 1
}

// printed is a root that knows prints of files without reading them.
type printed interface {
	Print(name string) (print [2]uint64, ok bool)
}

// knownPrint is the print of a file that need not be read for it.
func knownPrint(root rootfs.FS, name string) (Print, bool) {
	if p, ok := root.(printed); ok {
		return p.Print(name)
	}
	return Print{}, false
}

// PrintFile returns the print of a regular file's content, and reads it unless
// the root knows it.
func PrintFile(root rootfs.FS, name string) (Print, error) {
	if p, ok := knownPrint(root, name); ok {
		return p, nil
	}
	f, err := root.Open(name)
	if err != nil {
		return Print{}, err
	}
	defer f.Close()
	h := NewPrinter()
	if _, err := io.Copy(h, f); err != nil {
		return Print{}, fmt.Errorf("hash %s: %w", name, err)
	}
	return h.Print(), nil
}

// PrintString returns the print of a string.
func PrintString(s string) Print {
	u := xxh3.HashString128(s)
	return Print{u.Hi, u.Lo}
}

// Printer computes the print of what is written to it.
type Printer struct{ h *xxh3.Hasher }

// NewPrinter returns a Printer that has read nothing.
func NewPrinter() *Printer { return &Printer{h: xxh3.New()} }

// Write implements io.Writer and never fails.
func (p *Printer) Write(b []byte) (int, error) { return p.h.Write(b) }

// Print returns the print of what was written so far.
func (p *Printer) Print() Print {
	u := p.h.Sum128()
	return Print{u.Hi, u.Lo}
}

// Reset forgets what was written.
func (p *Printer) Reset() { p.h.Reset() }
