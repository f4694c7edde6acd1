package compat

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/kilnhook/kiln/e2e/internal/registryd"
	"github.com/kilnhook/kiln/e2e/internal/tools"
	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/e2e/servers"
)

// lab is what all rows share: the executor, a certificate authority, and
// servers.
type lab struct {
	executor string // path of the binary
	warmer   string // path of the other binary
	ca       *authority
	registry string     // host of Debian's registry: plain HTTP, for everybody
	base     string     // the image that rows build on, in that registry
	image    v1.Image   // base
	expired  identity   // of 127.0.0.1, good until yesterday
	other    *authority // whom nobody trusts

	private string     // host of distribution v3: TLS and passwords
	mutual  string     // host of distribution v3: TLS both ways
	gcs     string     // host of Google's buckets, of which there is one, contexts
	s3      servers.S3 // Amazon's, with the same bucket
	azure   string     // host of Azure's
}

// The user of the private registry and of everything else that asks for one.
const (
	user     = "ann"
	password = "sesame"
	// userEntry is the user in htpasswd's format; the hash is bcrypt's of the password.
	userEntry = "ann:$2a$04$D4tQ.rcAsgJRZlItl4xDdu2fgApA7imzNKfA/99EOn9/Bpu11Aq4e"
)

func newLab(t *testing.T) *lab {
	t.Helper()
	need.Root(t)
	need.Overlays(t, t.TempDir())
	debian := need.Command(t, "docker-registry")
	need.Command(t, "busybox")
	binaries := t.TempDir()
	l := &lab{executor: filepath.Join(binaries, "executor"), warmer: filepath.Join(binaries, "warmer"), ca: newAuthority(t), other: newAuthority(t)}
	check(t, tools.Build(t.Context(), binaries+"/", "./executor", "./executor/warmer"))
	l.registry = start(t, debian, registryd.Options{})
	l.expired = l.ca.issue(t, yesterday(), "127.0.0.1")
	l.base = l.registry + "/library/base:1"
	l.image = makeBase(t)
	l.push(t, l.image, l.base)
	l.serve(t)
	return l
}

// serve starts the other servers.
func (l *lab) serve(t *testing.T) {
	t.Helper()
	id := l.ca.issue(t, soon(), "127.0.0.1", "localhost")
	users := filepath.Join(t.TempDir(), "users")
	check(t, os.WriteFile(users, []byte(userEntry+"\n"), 0o644))
	v3 := servers.Distribution(t)
	l.private = start(t, v3, registryd.Options{Certificate: id.cert, Key: id.key, Users: users})
	l.mutual = start(t, v3, registryd.Options{Certificate: id.cert, Key: id.key, ClientCA: l.ca.file})
	l.gcs = servers.CloudStorage(t, servers.CloudStorageOptions{Host: "storage.googleapis.com"})
	send(t, http.MethodPost, "http://"+l.gcs+"/storage/v1/b?project=p", []byte(`{"name":"contexts"}`), nil)
	l.s3 = servers.Versity(t, servers.VersityOptions{})
	awsCommand(t, l.s3, "s3api", "create-bucket", "--bucket=contexts")
	l.azure = servers.Azurite(t)
}

// start runs a registry and returns its host.
func start(t *testing.T, program string, opt registryd.Options) string {
	t.Helper()
	r, err := registryd.StartWith(t.Context(), program, t.TempDir(), opt, nil)
	check(t, err)
	t.Cleanup(func() { check(t, r.Stop()) })
	return r.Host
}

// push puts an image into a registry of plain HTTP.
func (l *lab) push(t *testing.T, img v1.Image, ref string) v1.Hash {
	t.Helper()
	to, err := name.ParseReference(ref, name.Insecure)
	check(t, err)
	check(t, remote.Write(to, img, remote.WithContext(t.Context())))
	digest, err := img.Digest()
	check(t, err)
	return digest
}

// applets are what the base image has of busybox.
const applets = "sh cat echo ls mkdir rm sleep test true false id env touch chmod ln mv cp date wc head stat pwd printf dd grep find readlink"

// makeBase makes a small image with a shell, of Debian's static busybox.
func makeBase(t *testing.T) v1.Image {
	t.Helper()
	program, err := os.ReadFile(need.Command(t, "busybox"))
	check(t, err)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, d := range []string{"bin/", "dev/", "etc/", "proc/", "sys/", "root/", "var/"} {
		check(t, w.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}))
	}
	check(t, w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}))
	put := func(name, content string, mode int64) {
		check(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content))}))
		_, err := io.WriteString(w, content)
		check(t, err)
	}
	put("bin/busybox", string(program), 0o755)
	put("etc/passwd", "root:x:0:0::/root:/bin/sh\n", 0o644)
	for applet := range strings.FieldsSeq(applets) {
		check(t, w.WriteHeader(&tar.Header{Name: "bin/" + applet, Linkname: "busybox", Typeflag: tar.TypeSymlink}))
	}
	check(t, w.Close())
	raw := buf.Bytes()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
	check(t, err)
	img, err := mutate.AppendLayers(empty.Image, layer)
	check(t, err)
	return reconfigure(t, img, func(c *v1.ConfigFile) {
		c.OS, c.Architecture = "linux", runtime.GOARCH
		c.History = []v1.History{{CreatedBy: "base"}}
		c.Config = v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}}
	})
}

// reconfigure changes the config of an image.
func reconfigure(t *testing.T, img v1.Image, f func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	c, err := img.ConfigFile()
	check(t, err)
	c = c.DeepCopy()
	f(c)
	img, err = mutate.ConfigFile(img, c)
	check(t, err)
	return img
}

// nowhere is an address of 127.0.0.1 that nothing listens on.
func nowhere() string { return "127.0.0.1:1" }
