package base

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/infra/local/registry"
)

// fake is a registry client without a network.
type fake struct {
	reachable bool
	has       bool
	asked     int
	pushed    v1.Image
}

func (f *fake) Reachable(context.Context, string) bool { f.asked++; return f.reachable }

func (f *fake) Resolve(context.Context, string) (string, error) {
	if f.has {
		return "sha256:x", nil
	}
	return "", registry.ErrNotFound
}

func (f *fake) Push(_ context.Context, _ string, img v1.Image) error { f.pushed = img; return nil }

// A mirror is taken without asking anybody; Docker Hub is asked once; an image
// made earlier is used where Docker Hub does not answer.
func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		name    string
		mirrors []string
		client  fake
		flags   string
		asked   int
		said    string
	}{
		{"mirrors", []string{"https://mirror.example/hub/", "127.0.0.1:5000"}, fake{}, "--registry-map index.docker.io=mirror.example/hub --registry-map index.docker.io=127.0.0.1:5000 --insecure-registry 127.0.0.1:5000", 0, ""},
		{"hub", nil, fake{reachable: true}, "", 1, ""},
		{"made before", nil, fake{has: true}, "--registry-map index.docker.io=127.0.0.1:8765 --insecure-registry 127.0.0.1:8765", 1, "made from Debian's archive earlier"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im := New(Config{Mirrors: tc.mirrors, Client: &tc.client, Registry: "127.0.0.1:8765", Now: time.Now})
			var said string
			for range 2 {
				flags, err := im.Flags(t.Context(), func(s string) { said += s })
				if err != nil || strings.Join(flags, " ") != tc.flags {
					t.Errorf("%v %v", flags, err)
				}
			}
			if tc.client.asked != tc.asked || !strings.Contains(said, tc.said) || (tc.said == "") != (said == "") {
				t.Errorf("asked %d times, said %q", tc.client.asked, said)
			}
		})
	}
}

// Where nothing can be made, builds go on without flags, a person is told why,
// and the next build tries again.
func TestNothingToBeHad(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	client := &fake{}
	im := New(Config{Client: client, Registry: "127.0.0.1:1", Now: time.Now, Dir: t.TempDir()})
	for i := range 2 {
		var said string
		flags, err := im.Flags(t.Context(), func(s string) { said += s })
		if flags != nil || err != nil || !strings.Contains(said, "apt-get install mmdebstrap") || !strings.Contains(said, "--base-mirror") || client.asked != i+1 {
			t.Errorf("%v %v %q %d", flags, err, said, client.asked)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stopped"))
	if _, err := im.Flags(ctx, func(string) {}); err == nil {
		t.Error("a cancelled decision is no decision")
	}
}

// The sources of Debian on this machine become those of our suite, in either
// syntax, with their keyrings; others are left out.
func TestReadSources(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"nothing", nil, nil},
		{"deb822", map[string]string{"sources.list.d/debian.sources": `Types: deb deb-src
# a comment
URIs: http://a.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://a.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
`}, []string{
			"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.example/debian bookworm main",
			"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.example/debian bookworm-updates main",
			"deb http://a.example/debian-security bookworm-security main",
		}},
		{"another release", map[string]string{
			"sources.list":                    "# old\ndeb [arch=amd64 signed-by=/k.gpg] http://b.example/debian trixie main non-free # here\ndeb-src http://b.example/debian trixie main\ndeb http://s.example/ trixie-security main\n",
			"sources.list.d/other.list":       "deb https://packages.example/apt tool-bookworm main\ndeb https://node.example nodistro main\ndeb broken\n",
			"sources.list.d/off.list.disable": "deb http://c.example/debian bookworm main\n",
		}, []string{"deb [signed-by=/k.gpg] http://b.example/debian bookworm main", "deb http://s.example/ bookworm-security main"}},
		{"not a Debian", map[string]string{"sources.list": "deb http://archive.example/ubuntu noble main universe\n"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range tc.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := readSources(dir)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%v\n%s\nwant\n%s", err, strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

// Of apt's settings, those that decide about reaching and believing an archive
// are passed on.
func TestChooseOptions(t *testing.T) {
	got := chooseOptions("Acquire::http::Proxy \"http://p:3128\";\nAcquire::http::Proxy::x.example \"DIRECT\";\nAcquire::Check-Valid-Until \"false\";\nAcquire::Languages \"none\";\nAcquire::GzipIndexes \"true\";\n")
	if want := "Acquire::http::Proxy \"http://p:3128\";\nAcquire::http::Proxy::x.example \"DIRECT\";\nAcquire::Check-Valid-Until \"false\";\n"; got != want {
		t.Errorf("%s", got)
	}
}

// The layer has what an image needs and not what belongs to a machine.
func TestFilter(t *testing.T) {
	var in, out bytes.Buffer
	w := tar.NewWriter(&in)
	for _, e := range []struct {
		name string
		kind byte
		link string
	}{
		{"./", tar.TypeDir, ""}, {"./bin", tar.TypeSymlink, "usr/bin"}, {"./dev/", tar.TypeDir, ""}, {"./dev/null", tar.TypeChar, ""},
		{"./dev/fd", tar.TypeSymlink, "/proc/self/fd"}, {"./etc/", tar.TypeDir, ""}, {"./etc/hostname", tar.TypeReg, ""}, {"./etc/passwd", tar.TypeReg, ""},
		{"./etc/resolv.conf", tar.TypeReg, ""}, {"./usr/bin/perl", tar.TypeReg, ""}, {"./usr/bin/perl5", tar.TypeLink, "./usr/bin/perl"},
		{"./usr/share/doc/a/", tar.TypeDir, ""}, {"./usr/share/doc/a/copyright", tar.TypeReg, ""}, {"./usr/share/doc/a/changelog.gz", tar.TypeReg, ""},
		{"./usr/share/doc/b", tar.TypeSymlink, "a"}, {"./usr/share/man/man1/x.1.gz", tar.TypeReg, ""}, {"./usr/share/locale/de/x.mo", tar.TypeReg, ""},
		{"./usr/share/locale/locale.alias", tar.TypeReg, ""}, {"./var/cache/apt/", tar.TypeDir, ""}, {"./var/cache/apt/pkgcache.bin", tar.TypeReg, ""},
		{"./var/lib/apt/lists/x_Packages", tar.TypeReg, ""}, {"./var/lib/dpkg/status", tar.TypeReg, ""}, {"./etc/apt/apt.conf.d/99mmdebstrap", tar.TypeReg, ""},
		{"./tmp/", tar.TypeDir, ""},
	} {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: 0o4755, Uid: 7, Gid: 8, Uname: "x", ModTime: time.Unix(1, 5)}
		if e.kind == tar.TypeReg {
			h.Size = 1
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if e.kind == tar.TypeReg {
			if _, err := w.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	tw := tar.NewWriter(&out)
	if err := errors.Join(w.Close(), filter(tw, tar.NewReader(&in)), tw.Close()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(h.Name, "docker") {
			continue
		}
		got = append(got, strings.TrimSuffix(h.Name+" "+h.Linkname, " "))
		if h.Mode != 0o4755 || h.Uid != 7 || h.Uname != "" {
			t.Errorf("%+v", h)
		}
	}
	want := "bin usr/bin|dev/|etc/|etc/passwd|usr/bin/perl|usr/bin/perl5 usr/bin/perl|usr/share/doc/a/|usr/share/doc/a/copyright|usr/share/doc/b a|usr/share/locale/locale.alias|var/cache/apt/|var/lib/dpkg/status|tmp/"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("%s\nwant\n%s", s, want)
	}
}

// The real thing: a Debian is made, pushed into our registry, and found there
// the next time. It has a shell and no device nodes.
func TestMake(t *testing.T) {
	need.Command(t, "mmdebstrap")
	if testing.Short() {
		t.Skip("downloads a Debian")
	}
	server, err := registry.Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(server)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	client := &recorder{}
	im := New(Config{Client: client, Registry: host, Dir: t.TempDir(), Env: os.Environ(), Arch: runtime.GOARCH, Now: time.Now})
	var said []string
	flags, err := im.Flags(t.Context(), func(s string) { said = append(said, s) })
	if err != nil || !slices.Equal(flags, []string{"--registry-map", "index.docker.io=" + host, "--insecure-registry", host}) {
		t.Fatalf("%v %v %q", flags, err, said)
	}
	ref, err := name.ParseReference(host + "/library/debian:bookworm-slim")
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil || !slices.Equal(config.Config.Cmd, []string{"bash"}) || config.Architecture != runtime.GOARCH || len(config.History) != 1 {
		t.Errorf("%+v %v", config, err)
	}
	files := map[string]bool{}
	r := mutate.Extract(img)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		files[strings.TrimSuffix(h.Name, "/")] = true
		if h.Typeflag == tar.TypeChar || strings.HasPrefix(h.Name, "usr/share/man/") {
			t.Errorf("has %s", h.Name)
		}
	}
	for _, name := range []string{"usr/bin/bash", "etc/passwd", "usr/sbin/useradd", "bin", "etc/dpkg/dpkg.cfg.d/docker", "etc/apt/sources.list"} {
		if !files[name] {
			t.Errorf("has no %s", name)
		}
	}
	again := New(Config{Client: &recorder{}, Registry: host, Now: time.Now})
	if flags, err := again.Flags(t.Context(), func(s string) { said = []string{s} }); err != nil || len(flags) != 4 || !strings.Contains(said[0], "earlier") {
		t.Errorf("%v %v %q", flags, err, said)
	}
}

// recorder is a real client that cannot reach Docker Hub.
type recorder struct{ registry.Client }

func (r *recorder) Reachable(context.Context, string) bool { return false }
