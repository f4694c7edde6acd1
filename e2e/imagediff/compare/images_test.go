package compare

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// image makes an image of layers in the notation of parseEntry. Its config is
// the JSON config, if that is not empty; diff ids are filled in.
func image(t *testing.T, config string, layers ...string) v1.Image {
	t.Helper()
	img := v1.Image(empty.Image)
	for _, l := range layers {
		raw := layerTar(t, l)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(raw)), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	if config == "" {
		return img
	}
	return withConfig{img, t, config}
}

// withConfig is an image whose config has members that no Go type knows.
type withConfig struct {
	v1.Image
	t      *testing.T
	config string
}

func (w withConfig) RawConfigFile() ([]byte, error) {
	var config map[string]any
	if err := json.Unmarshal([]byte(w.config), &config); err != nil {
		w.t.Fatalf("config %q: %v", w.config, err)
	}
	return json.Marshal(config)
}

func layerTar(t *testing.T, entries string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for line := range strings.Lines(entries) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		h, content := parseEntry(t, line)
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// parseEntry reads one of
//
//	dir MODE UID:GID NAME
//	file MODE UID:GID NAME CONTENT
//	link NAME -> TARGET
//	hard MODE UID:GID NAME -> TARGET
//	char|block MODE UID:GID NAME MAJOR:MINOR
//	fifo MODE UID:GID NAME
//	wh NAME
//
// followed by any number of xattr:NAME=VALUE, mtime:SECONDS, perm:MODE and
// user:NAME.
func parseEntry(t *testing.T, line string) (h *tar.Header, content string) {
	t.Helper()
	words := strings.Fields(line)
	kind, words := words[0], words[1:]
	h = &tar.Header{Format: tar.FormatPAX, Typeflag: typeflag(kind), Mode: 0o777, ModTime: time.Unix(1, 0), PAXRecords: map[string]string{}}
	if kind != "link" && kind != "wh" {
		h.Mode = number(t, words[0], 8)
		uid, gid, _ := strings.Cut(words[1], ":")
		h.Uid, h.Gid = int(number(t, uid, 10)), int(number(t, gid, 10))
		words = words[2:]
	}
	h.Name, words = words[0], words[1:]
	if kind == "dir" {
		h.Name += "/"
	}
	for i := 0; i < len(words); i++ {
		key, value, _ := strings.Cut(words[i], ":")
		switch key {
		case "->":
			i++
			h.Linkname = words[i]
		case "xattr":
			name, v, _ := strings.Cut(value, "=")
			h.PAXRecords[xattrPrefix+name] = v
		case "mtime":
			h.ModTime = time.Unix(number(t, value, 10), 0)
		case "perm":
			h.Mode = number(t, value, 8)
		case "user":
			h.Uname = value
		default:
			if kind == "char" || kind == "block" {
				h.Devmajor, h.Devminor = number(t, key, 10), number(t, value, 10)
				continue
			}
			content = words[i]
			h.Size = int64(len(content))
		}
	}
	return h, content
}

func typeflag(kind string) byte {
	return map[string]byte{
		"dir": tar.TypeDir, "file": tar.TypeReg, "link": tar.TypeSymlink, "hard": tar.TypeLink,
		"char": tar.TypeChar, "block": tar.TypeBlock, "fifo": tar.TypeFifo, "wh": tar.TypeReg,
	}[kind]
}

func number(t *testing.T, s string, base int) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, base, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// listing prints a tree, one file a line, in the words of Difference.
func listing(tree *Tree) string {
	var out strings.Builder
	files := tree.files()
	groups := groups(files, files)
	for _, p := range paths(files, nil) {
		fmt.Fprintf(&out, "%s %s", p, files[p])
		if f := files[p]; f.Type == Regular {
			fmt.Fprintf(&out, " %.8s", f.SHA256)
		}
		if len(groups[p]) > 1 {
			fmt.Fprintf(&out, " = %s", strings.Join(groups[p], " "))
		}
		out.WriteByte('\n')
	}
	return out.String()
}
