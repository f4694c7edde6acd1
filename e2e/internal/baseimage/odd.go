package baseimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Odd adds two layers to an image that hold, below /odd, what layers may hold
// and ordinary images rarely do: hard links, one with a further name in the
// second layer, file capabilities, device nodes, a fifo, sticky and setgid
// directories, whiteouts and an opaque directory, names of any bytes, long
// names and link targets, owners above 16 bits and files without a parent
// entry. Its config has what debian's lacks.
func Odd(base v1.Image) (v1.Image, error) {
	img := base
	for i, entries := range [][]entry{lower(), upper()} {
		raw, err := archive(entries)
		if err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(raw)), nil
		}, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, err
		}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{
			Created: v1.Time{Time: made()}, CreatedBy: fmt.Sprintf("odd layer %d", i+1), Author: "kiln",
		}}); err != nil {
			return nil, err
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Author = "kiln"
	file.Config.Labels = map[string]string{"odd": "yes", "empty": ""}
	file.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}}
	file.Config.Volumes = map[string]struct{}{"/odd/volume": {}}
	file.Config.WorkingDir = "/odd/work"
	file.Config.StopSignal = "SIGINT"
	return mutate.ConfigFile(img, file)
}

// entry is one tar entry and its content.
type entry struct {
	tar.Header
	content string
}

// capability is security.capability for cap_net_raw=ep, as the kernel keeps it.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func lower() []entry {
	long := "odd/" + strings.Repeat("long-directory-name/", 8)
	return []entry{
		dir("odd", 0o755),
		dir("odd/sticky", 0o1777),
		dir("odd/setgid", 0o2775),
		file("odd/one", 0o644, "one"),
		hard("odd/uno", "odd/one", 0o644),
		file("odd/cap", 0o755, "capable", "security.capability", capability),
		file("odd/attr", 0o644, "", "user.kiln", "value\x00with zero"),
		file("odd/setuid", 0o4755, "setuid"),
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "odd/owner", Mode: 0o600, Uid: 1_000_000, Gid: 2_000_000}},
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "odd/null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "odd/fifo", Mode: 0o640}},
		file("odd/n\xffme with \n newline", 0o644, "bytes"),
		file("odd/unparented/deep/file", 0o644, "x"),
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "odd/escape", Linkname: "../../../../etc"}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "odd/dangling", Linkname: strings.Repeat("nowhere/", 30)}},
		dir(long, 0o755),
		file(long+strings.Repeat("f", 200), 0o644, "long"),
		dir("odd/opaque", 0o755),
		file("odd/opaque/hidden", 0o644, "hidden"),
		dir("odd/gone", 0o755),
		file("odd/gone/file", 0o644, "gone"),
		file("odd/becomes-dir", 0o644, "file"),
		dir("odd/becomes-file", 0o755),
		file("odd/becomes-file/child", 0o644, "child"),
		dir("odd/work", 0o711),
	}
}

func upper() []entry {
	return []entry{
		file("odd/one", 0o644, "one"),
		hard("odd/uno", "odd/one", 0o644),
		hard("odd/across", "odd/uno", 0o644),
		file("odd/.wh.gone", 0, ""),
		dir("odd/opaque", 0o750),
		file("odd/opaque/.wh..wh..opq", 0, ""),
		file("odd/opaque/shown", 0o644, "shown"),
		dir("odd/becomes-dir", 0o755),
		file("odd/becomes-dir/child", 0o644, "child"),
		file("odd/becomes-file", 0o644, "file"),
	}
}

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimSuffix(name, "/") + "/", Mode: mode}}
}

// file makes a regular file; attrs are names and values of xattrs in turn.
func file(name string, mode int64, content string, attrs ...string) entry {
	h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}
	for i := 0; i+1 < len(attrs); i += 2 {
		h.PAXRecords = map[string]string{"SCHILY.xattr." + attrs[i]: attrs[i+1]}
	}
	return entry{Header: h, content: content}
}

func hard(name, target string, mode int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: mode}}
}

func archive(entries []entry) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := e.Header
		h.Format, h.ModTime = tar.FormatPAX, made()
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// made is the time of the layers and of their files.
func made() time.Time { return time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC) }
