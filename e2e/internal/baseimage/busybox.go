package baseimage

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The accounts of Busybox: app has supplementary groups, big an id above 16
// bits, lost a home that is not there.
const (
	busyboxPasswd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
big:x:3000000:4000000:big:/home/big:/bin/sh
lost:x:1001:1000:lost:/nowhere:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
`
	busyboxGroup = `root:x:0:
daemon:x:1:
audio:x:29:app,lost
video:x:44:app
staff:x:50:big
app:x:1000:
big:x:4000000:
nogroup:x:65534:
`
)

// Busybox makes a small image with a shell of program, which is Debian's static
// busybox, and what builds depend on: accounts, home directories, a sticky
// directory, links to directories, a few files with owners and modes.
//
// It is an index: besides the image for this machine it has one for another
// architecture that differs in /etc/arch only, so it can be built from, but
// nothing in it runs.
func Busybox(ctx context.Context, program string) (v1.ImageIndex, []v1.Image, error) {
	binary, err := os.ReadFile(program)
	if err != nil {
		return nil, nil, fmt.Errorf("make busybox: %w", err)
	}
	applets, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("make busybox: list applets: %w", err)
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var images []v1.Image
	for _, arch := range []string{runtime.GOARCH, OtherArch()} {
		img, err := busybox(arch, string(binary), strings.Fields(string(applets)))
		if err != nil {
			return nil, nil, fmt.Errorf("make busybox for %s: %w", arch, err)
		}
		images = append(images, img)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch},
		}})
	}
	return index, images, nil
}

// OtherArch is an architecture that this machine is not of.
func OtherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

func busybox(arch, binary string, applets []string) (v1.Image, error) {
	entries := []entry{
		dir("", 0o755), dir("bin", 0o755), dir("dev", 0o755), dir("etc", 0o755), dir("home", 0o755), dir("proc", 0o755),
		dir("root", 0o700), dir("srv", 0o755), dir("sys", 0o755), dir("tmp", 0o1777), dir("usr", 0o755), dir("usr/bin", 0o755), dir("var", 0o755),
		owned(dir("home/app", 0o750), 1000, 1000), owned(dir("home/big", 0o755), 3000000, 4000000),
		owned(file("home/app/.profile", 0o640, "export PROFILE=read\n"), 1000, 1000),
		file("bin/busybox", 0o755, binary),
		file("etc/passwd", 0o644, busyboxPasswd), file("etc/group", 0o644, busyboxGroup), file("etc/arch", 0o644, arch+"\n"),
		dir("srv/data", 0o755), file("srv/data/one", 0o644, "one\n"), file("srv/data/two", 0o600, "two\n"),
		owned(file("srv/data/three", 0o664, "three\n"), 1000, 44),
		link("srv/link", "data"), link("srv/abs", "/srv/data"), link("var/run", "/run"), dir("run", 0o755),
	}
	for _, a := range applets {
		if a != "busybox" {
			entries = append(entries, link("bin/"+a, "busybox"))
		}
	}
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
	img, err := mutate.Append(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1),
		mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: made()}, CreatedBy: "busybox"}})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: made()}
	config.Config.Env = []string{"PATH=/usr/bin:/bin", "BASE=busybox"}
	config.Config.Cmd = []string{"sh"}
	return mutate.ConfigFile(img, config)
}

func link(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}}
}

func owned(e entry, uid, gid int) entry {
	e.Uid, e.Gid = uid, gid
	return e
}
