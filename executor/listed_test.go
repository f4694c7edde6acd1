package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/infra/local/registry"
)

// listedBase stores a base of two layers with tables of contents.
func listedBase(t *testing.T, ref, form string) {
	t.Helper()
	img := v1.Image(empty.Image)
	for i := range 2 {
		var blob bytes.Buffer
		annotations := map[string]string{}
		w, mediaType := estargz.NewWriterLevel(&blob, gzip.BestSpeed), types.OCILayer
		if form == "zstd" {
			w, mediaType = estargz.NewWriterWithCompressor(&blob, &zstdchunked.Compressor{CompressionLevel: zstd.SpeedFastest, Metadata: annotations}), types.OCILayerZStd
		}
		err := w.AppendTar(bytes.NewReader(listedTar(t, i)))
		sum, cerr := w.Close()
		if err = errors.Join(err, cerr); err != nil {
			t.Fatal(err)
		}
		if form != "zstd" {
			annotations[estargz.TOCJSONDigestAnnotation] = sum.String()
		}
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob.Bytes())), nil }, tarball.WithMediaType(mediaType))
		if err == nil {
			img, err = mutate.Append(img, mutate.Addendum{Layer: l, Annotations: annotations, MediaType: mediaType})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	img, err := mutate.ConfigFile(mutate.MediaType(img, types.OCIManifestSchema1), platformed(t, img))
	if err != nil {
		t.Fatal(err)
	}
	r, err := name.ParseReference(ref)
	if err == nil {
		err = remote.Write(r, img)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// listedTar is a layer's content: the lower one, or one with whiteouts above it.
func listedTar(t *testing.T, i int) []byte {
	t.Helper()
	var raw bytes.Buffer
	tw := tar.NewWriter(&raw)
	put := func(h tar.Header, body []byte) {
		h.Size, h.ModTime = int64(len(body)), time.Unix(1_600_000_000, 0)
		if _, err := second(tw.WriteHeader(&h), body, tw); err != nil {
			t.Fatal(err)
		}
	}
	put(tar.Header{Name: "usr/lib/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	r := rand.New(rand.NewPCG(uint64(i), 5)) //nolint:gosec // to be repeated
	for n := range 60 {
		body := make([]byte, 30_000)
		for j := range body {
			body[j] = byte(r.Uint32())
		}
		put(tar.Header{Name: fmt.Sprintf("usr/lib/f%d-%d", i, n), Typeflag: tar.TypeReg, Mode: 0o644}, body)
	}
	if i == 0 {
		put(tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"}, nil)
		put(tar.Header{Name: "old/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 5}, nil)
		put(tar.Header{Name: "gone", Typeflag: tar.TypeReg}, []byte("x"))
		return closed(t, tw, &raw)
	}
	put(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("ann:x:1000:1001::/home/ann:\n"))
	put(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("staff:x:50:ann\n"))
	put(tar.Header{Name: ".wh.gone", Typeflag: tar.TypeReg}, nil)
	put(tar.Header{Name: "srv", Typeflag: tar.TypeSymlink, Linkname: "/old/deep"}, nil)
	put(tar.Header{Name: "usr/hard", Typeflag: tar.TypeLink, Linkname: "etc/passwd"}, nil)
	return closed(t, tw, &raw)
}

func second(err error, body []byte, w io.Writer) (int, error) {
	if err != nil {
		return 0, err
	}
	return w.Write(body)
}

func closed(t *testing.T, tw *tar.Writer, raw *bytes.Buffer) []byte {
	t.Helper()
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

// sent counts what a registry sends of blobs, and gives no parts if it is told so.
type sent struct {
	next  http.Handler
	bytes atomic.Int64
	whole atomic.Bool
}

func (s *sent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.whole.Load() {
		r.Header.Del("Range")
	}
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
		w = &sending{w, &s.bytes}
	}
	s.next.ServeHTTP(w, r)
}

type sending struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (s *sending) Write(b []byte) (int, error) {
	n, err := s.ResponseWriter.Write(b)
	s.n.Add(int64(n))
	return n, err
}

// Of a base whose layers have tables of contents no more is fetched than those, if
// nothing runs on it, and the image is that of a build that fetches everything. What is
// copied from it comes from the layers.
func TestListedBase(t *testing.T) {
	need.Root(t)
	store, err := registry.Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	count := &sent{next: store}
	srv := httptest.NewServer(count)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	const above = "COPY --chown=ann:staff file /srv/x/\nADD file /lib/\nWORKDIR /gone/here\nCOPY file /etc/passwd\n"
	for _, form := range []string{"gzip", "zstd"} {
		base := host + "/library/" + form + ":1"
		listedBase(t, base, form)
		for n, c := range []struct {
			what, dockerfile string
			little           bool
		}{
			{"files put", "FROM " + base + "\n" + above, true},
			{"files put onto that", "FROM " + host + "/app:1\nCOPY file /srv/y/\n", true},
			{"files copied from it", "FROM " + base + " AS b\n" + above + "FROM " + base + "\nCOPY --from=b /usr/hard /lib/f0-3 /srv/x/file /lib/file /to/\n" +
				"COPY --from=" + base + " /lib/f1-7 /usr/hard /from/\n", false},
		} {
			var digests [2]string
			var bytes [2]int64
			for i := range digests {
				count.whole.Store(i == 1)
				count.bytes.Store(0)
				digests[i] = builtDigest(t, c.dockerfile, fmt.Sprintf("%s/app:%d", host, n+1))
				bytes[i] = count.bytes.Load()
			}
			t.Logf("%s, %s: %d bytes sent, %d without parts", form, c.what, bytes[0], bytes[1])
			if digests[0] != digests[1] {
				t.Errorf("%s, %s: the image is %s, without tables %s", form, c.what, digests[0], digests[1])
			}
			if c.little && (bytes[0] == 0 || bytes[0] > bytes[1]/10) {
				t.Errorf("%s, %s: %d bytes were sent, %d without parts", form, c.what, bytes[0], bytes[1])
			}
		}
	}
}

// builtDigest builds an image, which must be whole, and returns its digest.
func builtDigest(t *testing.T, dockerfile, dest string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"Dockerfile": dockerfile, "file": "content"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("executor", "--context", dir, "--destination", dest, "--reproducible").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ref, err := name.ParseReference(dest)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err == nil {
		err = validate.Image(img, validate.Fast)
	}
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}
