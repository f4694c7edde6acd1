package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/snapshot"
	"github.com/kilnhook/kiln/executor/internal/toc"
)

// minTable is how large a layer is of which the table of contents is read, in bytes: a
// smaller one is fetched and decompressed sooner.
const minTable = 256 << 10

// A Table is the table of contents of a layer in a registry.
type Table struct {
	blob toc.Blob
	ref  toc.Ref
	key  string
}

// TableOf returns the table of contents of a layer; nil if it has none, or none that
// can be read alone.
func TableOf(l v1.Layer) *Table {
	for {
		if blob, ok := l.(toc.Blob); ok {
			return tableOf(l, blob, minTable)
		}
		u, ok := l.(interface{ Unwrap() v1.Layer })
		if !ok {
			return nil
		}
		l = u.Unwrap()
	}
}

func tableOf(l v1.Layer, blob toc.Blob, least int64) *Table {
	desc, err := partial.Descriptor(l)
	if err != nil || desc == nil || desc.Size < least {
		return nil
	}
	ref, ok := toc.Find(*desc)
	if !ok {
		return nil
	}
	return &Table{blob, ref, "toc-" + desc.Digest.Hex + "-" + ref.Digest.Hex}
}

// Key names the table and the layer that has it, by the digests of both.
func (t *Table) Key() string { return t.key }

// TableIsWrong tells whether an error of WriteIndex means that the table is not the one
// that the manifest names.
func TableIsWrong(err error) bool { return errors.Is(err, toc.ErrDigest) }

// errNoContent is the error of a table by which users cannot be looked up.
var errNoContent = errors.New("the table of contents does not say where the users are")

// WriteIndex writes the layer's index by the table: equal to what the layer itself would
// yield if the two agree, but for prints and fractions of a second. Nothing proves that
// they do, so it must not be taken for the index of the layer's content, of its diff id,
// anywhere. An error may mean nothing more than that the layer is to be read instead.
func (t *Table) WriteIndex(ctx context.Context, dst io.Writer) error {
	w, err := newIndexWriter(dst)
	if err != nil {
		return err
	}
	want := func(name string) bool {
		return (strings.HasSuffix(name, "passwd") || strings.HasSuffix(name, "group")) && inlined(rootfs.Clean(name))
	}
	err = toc.Read(ctx, t.blob, t.ref, want, w.listed)
	if err != nil {
		err = fmt.Errorf("read table of contents of layer: %w", err)
	}
	return errors.Join(err, w.close())
}

// listed writes the entry of a file that a table lists.
func (w *indexWriter) listed(h *tar.Header, content toc.Content) error {
	name := rootfs.Clean(h.Name)
	e, err := entryOf(h, name)
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	x := indexEntry{Entry: e}
	switch {
	case !e.Mode.IsRegular() || e.Hard:
	case e.Size == 0:
		x.print = emptyPrint()
	case inlined(name) && e.Size <= maxInline:
		if content == nil {
			return errNoContent
		}
		if x.inline, err = content(); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
		x.print = snapshot.PrintString(string(x.inline))
	}
	w.entry(x)
	return nil
}
