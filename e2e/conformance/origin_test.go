package conformance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/crypto/ssh/agent"

	"github.com/kilnhook/kiln/e2e/internal/origin"
)

// originName stands in a case for the server that serves what builds fetch.
const originName = "//ORIGIN"

// anyOrigin finds it in what builds say.
var anyOrigin = regexp.MustCompile(`//127\.0\.0\.1:[0-9]+\b`)

// startOrigin starts the server if the case fetches from it.
func (l *layout) startOrigin(c *testCase) error {
	fetches := bytes.Contains(c.archive.Comment, []byte(originName))
	for _, f := range c.archive.Files {
		fetches = fetches || !strings.HasPrefix(f.Name, wantDir) && bytes.Contains(f.Data, []byte(originName))
	}
	if !fetches {
		return nil
	}
	git, err := exec.LookPath("git")
	if err != nil {
		return err
	}
	dir := filepath.Join(filepath.Dir(l.contexts), "origin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	l.origin, err = origin.Start(context.Background(), git, dir)
	return err
}

// close ends what the layout runs.
func (l *layout) close() error {
	var errs []error
	if l.origin != nil {
		errs = append(errs, l.origin.Close())
	}
	for _, a := range l.agents {
		errs = append(errs, a.Close())
	}
	return errors.Join(errs...)
}

// filled replaces the names that only a run knows.
func (l *layout) filled(text string) string {
	text = l.known.Replace(text)
	if l.origin == nil {
		return text
	}
	return strings.ReplaceAll(text, originName, "//"+l.origin.Host)
}

// withOrigin replaces the server's name in a file of the case.
func (l *layout) withOrigin(content []byte) []byte {
	if l.origin == nil {
		return content
	}
	return bytes.ReplaceAll(content, []byte(originName), []byte("//"+l.origin.Host))
}

// offer carries out a directive about what builds fetch or are given.
func (l *layout) offer(d directive) (known bool, err error) {
	w := strings.Fields(l.filled(d.rest))
	switch {
	case d.word == "agent" && len(w) == 1:
		return true, l.agent(w[0])
	case d.word == "oci-layout" && len(w) == 2:
		return true, l.ociLayout(w[0], w[1])
	case l.origin == nil:
		return false, nil
	case d.word == "serve" && len(w) == 1:
		return true, l.serve(l.path(w[0]))
	case d.word == "header" && len(w) > 2:
		l.origin.Header(w[0], strings.TrimSuffix(w[1], ":"), strings.Join(w[2:], " "))
	case d.word == "redirect" && len(w) == 2:
		l.origin.Redirect(w[0], w[1])
	case d.word == "commit" && len(w) == 3:
		if _, err := l.origin.Commit(context.Background(), w[0], w[1], l.path(w[2])); err != nil {
			return true, err
		}
		return true, os.RemoveAll(l.path(w[2]))
	case d.word == "tag" && len(w) > 2:
		return true, l.origin.Tag(context.Background(), w[0], w[1], w[2], len(w) > 3)
	default:
		return false, nil
	}
	return true, nil
}

// serve serves the files of a directory and removes it.
func (l *layout) serve(root string) error {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		l.origin.File(strings.TrimPrefix(path, root), content)
		return err
	})
	return errors.Join(err, os.RemoveAll(root))
}

// agent gives the build an ssh agent with one key.
func (l *layout) agent(id string) error {
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), Comment: "key of " + id}); err != nil {
		return err
	}
	// The path of a socket must be short.
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	l.agents = append(l.agents, &listening{listener, dir})
	l.build.SSH[id] = socket
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it is closed
			}
			go func() {
				_ = agent.ServeAgent(keys, conn) // the other side ends it
				_ = conn.Close()
			}()
		}
	}()
	return nil
}

// listening is an agent's socket.
type listening struct {
	net.Listener
	dir string
}

// Close ends the agent and removes its socket.
func (a *listening) Close() error { return errors.Join(a.Listener.Close(), os.RemoveAll(a.dir)) }

// ociLayout makes a directory below the further contexts an OCI image layout
// with an image of the registry under the tag "latest", and that the named
// context.
func (l *layout) ociLayout(context, image string) error {
	ref, err := name.ParseReference(l.known.Replace("$REGISTRY/library/")+image, name.Insecure)
	if err != nil {
		return err
	}
	img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: wantArch}))
	if err != nil {
		return err
	}
	dir := filepath.Join(l.contexts, "layout-"+context)
	path, err := ocilayout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	if err := path.AppendImage(img, ocilayout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "latest"})); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	l.build.Layouts[context] = dir
	return nil
}
