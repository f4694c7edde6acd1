package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/kilnhook/kiln/e2e/port"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
)

func TestMain(m *testing.M) {
	if status, acted := sandbox.Child(os.Args, os.Environ(), os.Stdout, os.Stderr); acted {
		os.Exit(status)
	}
	testscript.Main(m, map[string]func(){"executor": main})
}

// The scripts in testdata/script say what the program promises. They run the
// program itself, with a registry at $REGISTRY that has a base image with a
// shell, base, the same registry behind a password at $PRIVATE, a sink for
// events at $SINK, a server of files and repositories at $FILES, the files of the
// script in files at $SERVED, and a socket of an agent at $AGENT.
// $COUNTED is the registry too, which writes what it is asked for to requests,
// and at $GONE is none. Scripts named for the warmer can run it.
func TestScripts(t *testing.T) {
	need.Root(t)
	need.Command(t, "git")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"image":    showImage,
			"tarball":  makeTarball,
			"status":   wantStatus,
			"requests": wantRequests,
		},
	})
}

func setup(env *testscript.Env) error {
	faults := &faulty{next: ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))}
	seen := &requests{next: faults}
	env.Values[requestsKey{}] = seen
	registry := httptest.NewServer(seen)
	env.Defer(registry.Close)
	host := strings.TrimPrefix(registry.URL, "http://")
	sink := &sink{file: filepath.Join(env.WorkDir, "events")}
	events := httptest.NewServer(sink)
	env.Defer(events.Close)
	files := httptest.NewServer(served(env.WorkDir))
	env.Defer(files.Close)
	env.Setenv("FILES", files.URL)
	env.Setenv("REGISTRY", host)
	env.Setenv("SINK", events.URL)
	own := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(env.WorkDir, "files"))))
	env.Defer(own.Close)
	env.Setenv("SERVED", own.URL)
	private := httptest.NewServer(guarded(faults))
	env.Defer(private.Close)
	env.Setenv("PRIVATE", strings.TrimPrefix(private.URL, "http://"))
	env.Setenv("HOME", env.WorkDir)
	if err := startAgent(env); err != nil {
		return err
	}
	if isWarmer(env) {
		if err := withWarmer(env); err != nil {
			return err
		}
	}
	count := httptest.NewServer(&counted{next: faults, file: filepath.Join(env.WorkDir, "requests")})
	env.Defer(count.Close)
	env.Setenv("COUNTED", strings.TrimPrefix(count.URL, "http://"))
	gone, release, err := port.Refuse()
	if err != nil {
		return err
	}
	env.Defer(release)
	env.Setenv("GONE", gone)
	err = pushBase(host)
	seen.forget()
	return err
}

// requests notes what the registry at $REGISTRY is asked.
type requests struct {
	next http.Handler
	mu   sync.Mutex
	seen []string
}

type requestsKey struct{}

func (q *requests) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q.mu.Lock()
	q.seen = append(q.seen, r.Method+" "+r.URL.RequestURI())
	q.mu.Unlock()
	q.next.ServeHTTP(w, r)
}

func (q *requests) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seen = nil
}

// wantRequests asserts how often the registry was asked something since the last
// time that was asserted: requests METHOD PATH-PATTERN N [METHOD …]….
func wantRequests(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 || len(args)%3 != 0 || neg {
		ts.Fatalf("usage: requests METHOD PATTERN N…")
	}
	q, ok := ts.Value(requestsKey{}).(*requests)
	if !ok {
		ts.Fatalf("there is no registry")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for ; len(args) > 0; args = args[3:] {
		pattern, err := regexp.Compile("^" + args[0] + " " + args[1])
		ts.Check(err)
		n := 0
		for _, r := range q.seen {
			if pattern.MatchString(r) {
				n++
			}
		}
		if fmt.Sprint(n) != args[2] {
			ts.Fatalf("%d requests %s %s, want %s, among\n%s", n, args[0], args[1], args[2], strings.Join(q.seen, "\n"))
		}
	}
	q.seen = nil
}

// startAgent makes a socket at $AGENT.
func startAgent(env *testscript.Env) error {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	env.Setenv("AGENT", path)
	env.Defer(func() { l.Close(); os.RemoveAll(dir) })
	return nil
}

// faulty is a registry that fails where the name of a repository says so.
type faulty struct{ next http.Handler }

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/nomanifest/manifests/") {
		http.Error(w, `{"errors":[{"code":"DENIED","message":"no manifests today"}]}`, http.StatusForbidden)
		return
	}
	f.next.ServeHTTP(w, r)
}

// guarded lets in ann, whose password is sesame.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "ann" || password != "sesame" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sink writes the events it gets to a file, headers first.
type sink struct {
	mu   sync.Mutex
	file string
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	f, ferr := os.OpenFile(s.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err := errors.Join(err, ferr); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer f.Close()
	for _, h := range []string{"Ce-Type", "Ce-Outcome", "Ce-Imagedigest", "Ce-Subject"} {
		fmt.Fprintf(f, "%s: %s\n", h, r.Header.Get(h))
	}
	if r.Method == http.MethodPut {
		fmt.Fprintf(f, "put %s with %s\n", r.URL.Path, r.Header.Get("Authorization"))
	}
	fmt.Fprintf(f, "%s\n", body)
	w.WriteHeader(http.StatusAccepted)
}

// pushBase makes an image of Debian's static busybox.
func pushBase(host string) error {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("the scripts need Debian's busybox-static: %w", err)
	}
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	add := func(h *tar.Header, body []byte) {
		h.Size = int64(len(body))
		err = errors.Join(err, tw.WriteHeader(h))
		_, werr := tw.Write(body)
		err = errors.Join(err, werr)
	}
	for _, d := range []string{"bin/", "etc/", "dev/", "proc/", "sys/", "home/"} {
		add(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	add(&tar.Header{Name: "bin/busybox", Mode: 0o755, Typeflag: tar.TypeReg}, program)
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" {
			add(&tar.Header{Name: "bin/" + applet, Linkname: "busybox", Typeflag: tar.TypeSymlink}, nil)
		}
	}
	add(&tar.Header{Name: "etc/passwd", Mode: 0o644, Typeflag: tar.TypeReg}, []byte("root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n"))
	add(&tar.Header{Name: "etc/group", Mode: 0o644, Typeflag: tar.TypeReg}, []byte("root:x:0:\nann:x:1001:\nbuild:x:7:ann\n"))
	if err = errors.Join(err, tw.Close()); err != nil {
		return err
	}
	raw := buf.Bytes()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return err
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64", RootFS: rootFS(img), History: []v1.History{{CreatedBy: "base"}}, Config: v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
	})
	if err != nil {
		return err
	}
	ref, err := name.ParseReference(host+"/library/base", name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(ref, img)
}

func rootFS(img v1.Image) v1.RootFS {
	cf, err := img.ConfigFile()
	if err != nil {
		return v1.RootFS{}
	}
	return cf.RootFS
}

// showImage prints what an image holds: image REF manifest|config|history|digest|layers.
// REF may be repository@<FILE for the digest in a file.
func showImage(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: image REF manifest|config|history|digest|layers")
	}
	where := args[0]
	if repo, file, ok := strings.Cut(where, "@<"); ok { // the digest is in a file
		where = repo + "@" + ts.ReadFile(file)
	}
	ref, err := name.ParseReference(where, name.Insecure)
	ts.Check(err)
	img, err := remote.Image(ref)
	if neg {
		if err == nil {
			ts.Fatalf("%s exists", args[0])
		}
		return
	}
	ts.Check(err)
	var b strings.Builder
	switch args[1] {
	case "digest":
		d, err := img.Digest()
		ts.Check(err)
		fmt.Fprint(&b, d)
	case "manifest":
		raw, err := img.RawManifest()
		ts.Check(err)
		b.Write(raw)
	case "config":
		raw, err := img.RawConfigFile()
		ts.Check(err)
		b.Write(raw)
	case "history":
		cf, err := img.ConfigFile()
		ts.Check(err)
		for _, h := range cf.History {
			fmt.Fprintf(&b, "%t %s\n", h.EmptyLayer, h.CreatedBy)
		}
	case "layers":
		layers, err := img.Layers()
		ts.Check(err)
		for i, l := range layers {
			rc, err := l.Uncompressed()
			ts.Check(err)
			tr := tar.NewReader(rc)
			for i > 0 {
				h, err := tr.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				ts.Check(err)
				fmt.Fprintf(&b, "%d %s %o %d:%d %s\n", i, h.Name, h.Mode, h.Uid, h.Gid, h.Linkname)
			}
			ts.Check(rc.Close())
		}
	default:
		ts.Fatalf("image: unknown view %s", args[1])
	}
	_, err = io.WriteString(ts.Stdout(), b.String())
	ts.Check(err)
}

// makeTarball writes an archive: tarball FILE NAME=CONTENT…. A FILE that ends
// in .gz is compressed.
func makeTarball(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	var w io.WriteCloser = f
	if strings.HasSuffix(args[0], ".gz") {
		w = gzip.NewWriter(f)
	}
	tw := tar.NewWriter(w)
	for _, a := range args[1:] {
		n, body, _ := strings.Cut(a, "=")
		body = strings.ReplaceAll(body, `\n`, "\n")
		ts.Check(tw.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: int64(len(body))}))
		_, err := io.WriteString(tw, body)
		ts.Check(err)
	}
	ts.Check(tw.Close())
	if w != f {
		ts.Check(w.Close())
	}
	ts.Check(f.Close())
}

// wantStatus runs the program and asserts its exit status: status N ARG….
func wantStatus(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("executor", args[1:]...)
	got := "0"
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = fmt.Sprint(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("executor: %v", err)
	}
	if got != args[0] {
		ts.Fatalf("executor %s: exit status %s, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}
