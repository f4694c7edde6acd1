package e2e

import (
	"bytes"
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/kilnhook/kiln/e2e/internal/container"
	"github.com/kilnhook/kiln/e2e/internal/tools"
	"github.com/kilnhook/kiln/e2e/need"
)

// With --cleanup a container is as empty after a build in place as before it,
// the outputs left alone, and builds the same image again.
func TestCleanup(t *testing.T) {
	need.Root(t)
	need.Overlays(t, t.TempDir())
	runc, busybox := need.Command(t, "runc"), need.Command(t, "busybox")
	out := t.TempDir()
	root, ctx := shellRoot(t, busybox)
	build := "/kaniko/executor --isolation=inplace --force --reproducible --no-push --digest-file /out/"
	script := build + "first --cleanup --tar-path /image.tar && /kaniko/sh -c 'for f in /*; do echo left $f; done' && " +
		build + "second && /kaniko/sh -c 'for f in /*; do echo now $f; done'"
	var text bytes.Buffer
	status, err := container.Run(t.Context(), container.Spec{
		Runc: runc, Root: root, Scratch: t.TempDir(), Dir: "/workspace", Args: []string{"/kaniko/sh", "-c", script},
		Env:   []string{"PATH=/kaniko"},
		Binds: []container.Bind{{Source: ctx, Target: "/workspace", ReadOnly: true}, {Source: out, Target: "/out"}}, Stdout: &text, Stderr: &text,
	})
	if err != nil || status != 0 {
		t.Fatalf("status %d, %v\n%s", status, err, &text)
	}
	for _, gone := range []string{"left /bin", "left /made"} {
		if strings.Contains(text.String(), gone) {
			t.Errorf("the first build has %s", gone)
		}
	}
	for _, there := range []string{"left /kaniko", "left /image.tar", "now /bin", "now /made"} {
		if !strings.Contains(text.String(), there) {
			t.Errorf("there is no %q in\n%s", there, &text)
		}
	}
	first, err := os.ReadFile(filepath.Join(out, "first"))
	check(t, err)
	second, err := os.ReadFile(filepath.Join(out, "second"))
	check(t, err)
	if !bytes.Equal(first, second) || len(first) == 0 {
		t.Errorf("digests %s and %s differ", first, second)
	}
}

// shellRoot is a root with the executor and a shell, and a context whose
// Dockerfile makes /bin/sh and /made.
func shellRoot(t *testing.T, busybox string) (root, ctx string) {
	t.Helper()
	root, ctx = t.TempDir(), t.TempDir()
	check(t, os.Mkdir(filepath.Join(root, "kaniko"), 0o755))
	check(t, tools.Build(t.Context(), filepath.Join(root, "kaniko", "executor"), "./executor"))
	program, err := os.ReadFile(busybox)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(root, "kaniko", "sh"), program, 0o755))
	check(t, os.WriteFile(filepath.Join(ctx, "sh"), program, 0o755))
	check(t, os.WriteFile(filepath.Join(ctx, "Dockerfile"), []byte("FROM scratch\nCOPY sh /bin/sh\nRUN echo x > /made\n"), 0o644))
	return root, ctx
}

// With --pre-cleanup nothing of what was in the container before is there, and
// with --materialize the files of the image are, though the cache had them all.
func TestPreCleanupAndMaterialize(t *testing.T) {
	need.Root(t)
	need.Overlays(t, t.TempDir())
	runc, busybox := need.Command(t, "runc"), need.Command(t, "busybox")
	root, ctx := shellRoot(t, busybox)
	check(t, os.WriteFile(filepath.Join(root, "stray"), []byte("of the container"), 0o644))
	build := "/kaniko/executor --isolation=inplace --force --no-push --cache --cache-copy-layers --cache-repo=oci:/out/cache "
	list := func(when string) string {
		return " && /kaniko/sh -c 'for f in /*; do echo " + when + " $f; done'"
	}
	script := build + list("kept") + " && KANIKO_PRE_CLEANUP=true " + build + list("emptied") + " && " + build + "--materialize" + list("full")
	var text bytes.Buffer
	status, err := container.Run(t.Context(), container.Spec{
		Runc: runc, Root: root, Scratch: t.TempDir(), Dir: "/workspace", Args: []string{"/kaniko/sh", "-c", script},
		Env:   []string{"PATH=/kaniko"},
		Binds: []container.Bind{{Source: ctx, Target: "/workspace", ReadOnly: true}, {Source: t.TempDir(), Target: "/out"}}, Stdout: &text, Stderr: &text,
	})
	if err != nil || status != 0 {
		t.Fatalf("status %d, %v\n%s", status, err, &text)
	}
	for _, there := range []string{"kept /stray", "kept /made", "emptied /kaniko", "full /made", "full /bin"} {
		if !strings.Contains(text.String(), there) {
			t.Errorf("there is no %q in\n%s", there, &text)
		}
	}
	for _, gone := range []string{"emptied /stray", "emptied /made", "emptied /bin", "full /stray"} {
		if strings.Contains(text.String(), gone) {
			t.Errorf("there is %q in\n%s", gone, &text)
		}
	}
}

// An image is pushed over TLS though the build in place has removed the files
// of the certificate authorities from the container, and what lies in /kaniko
// stays there whatever --kaniko-dir says, as does a key of a cloud's.
func TestInPlaceKeepsItsCertificates(t *testing.T) {
	need.Root(t)
	need.Overlays(t, t.TempDir())
	runc, busybox := need.Command(t, "runc"), need.Command(t, "busybox")
	registry := httptest.NewTLSServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer registry.Close()
	root, ctx := shellRoot(t, busybox)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: registry.Certificate().Raw})
	check(t, os.Mkdir(filepath.Join(root, "certs"), 0o755))
	check(t, os.WriteFile(filepath.Join(root, "certs", "ca.pem"), ca, 0o644))
	check(t, os.WriteFile(filepath.Join(root, "kaniko", "note"), nil, 0o644))
	check(t, os.Mkdir(filepath.Join(root, "secret"), 0o755))
	check(t, os.WriteFile(filepath.Join(root, "secret", "key.json"), nil, 0o600))
	check(t, os.WriteFile(filepath.Join(ctx, "Dockerfile"), []byte("FROM scratch AS a\nCOPY sh /bin/sh\nRUN echo x > /made\nFROM scratch\nCOPY --from=a /made /\n"), 0o644))
	host := strings.TrimPrefix(registry.URL, "https://")
	script := "/kaniko/executor --isolation=inplace --force --kaniko-dir=/elsewhere --pre-cleanup --skip-push-permission-check --destination " + host + "/app:1" +
		" && /kaniko/sh -c 'for f in /* /kaniko/* /secret/*; do echo there $f; done'"
	var text bytes.Buffer
	status, err := container.Run(t.Context(), container.Spec{
		Runc: runc, Root: root, Scratch: t.TempDir(), Dir: "/workspace", Args: []string{"/kaniko/sh", "-c", script},
		Env:   []string{"PATH=/kaniko", "SSL_CERT_DIR=/certs", "GOOGLE_APPLICATION_CREDENTIALS=/secret/key.json"},
		Binds: []container.Bind{{Source: ctx, Target: "/workspace", ReadOnly: true}}, Stdout: &text, Stderr: &text,
	})
	if err != nil || status != 0 {
		t.Fatalf("status %d, %v\n%s", status, err, &text)
	}
	if !strings.Contains(text.String(), "there /kaniko/note") || !strings.Contains(text.String(), "there /secret/key.json") || strings.Contains(text.String(), "there /certs") {
		t.Errorf("what is left:\n%s", &text)
	}
}
