package compare

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// rawLayer is a layer of any bytes.
type rawLayer struct {
	v1.Layer
	content []byte
}

func (l rawLayer) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.content)), nil
}

// FuzzLayer applies any two entries as a layer on top of one with links and proves
// that it ends, does not panic and gives clean absolute paths.
func FuzzLayer(f *testing.F) {
	const lower = "link a -> ../b\nlink b -> /c/../d\ndir 0755 0:0 d\nfile 0644 0:0 d/f x\n"
	f.Add(uint8('0'), "a/f", "", uint8('0'), "x", "")
	f.Add(uint8('0'), "d/.wh.f", "", uint8('1'), "../g", "a/f")
	f.Add(uint8('0'), "d/.wh..wh..opq", "", uint8('2'), "d", "d")
	f.Add(uint8('5'), "../..", "", uint8('0'), ".wh...", "")
	f.Fuzz(func(t *testing.T, type1 uint8, name1, link1 string, type2 uint8, name2, link2 string) {
		tree := &Tree{root: directory(0), layers: []map[string]*File{{}, {}}}
		upper := tarOf(
			&tar.Header{Typeflag: type1, Name: name1, Linkname: link1},
			&tar.Header{Typeflag: type2, Name: name2, Linkname: link2})
		for i, raw := range [][]byte{layerTar(t, lower), upper} {
			sum := sha256.Sum256(raw)
			id := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
			if err := tree.apply(t.Context(), i+1, rawLayer{content: raw}, id); err != nil {
				return
			}
		}
		for p := range tree.files() {
			if p != path.Clean(p) || p[0] != '/' {
				t.Errorf("path %q is not clean", p)
			}
		}
	})
}

// tarOf archives the headers that an archive can hold.
func tarOf(headers ...*tar.Header) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			w = tar.NewWriter(&out)
		}
	}
	if err := w.Close(); err != nil {
		return nil
	}
	return out.Bytes()
}
