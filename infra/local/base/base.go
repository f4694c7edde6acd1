// Package base decides where the one-machine stack's builds get their base
// images: from a configured mirror, from Docker Hub, or, where that cannot be
// reached, from an image that it makes of Debian's archive itself.
package base

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/kilnhook/kiln/infra/local/registry"
)

const (
	hub        = "index.docker.io"                  // Docker Hub, as image references name it
	hubURL     = "https://registry-1.docker.io/v2/" // where it answers
	repository = "library/debian"                   // what is made
	suite      = "bookworm"
	tag        = suite + "-slim"

	probeTimeout = 3 * time.Second
)

// Client is what is needed of a registry client; registry.Client is one.
type Client interface {
	Pusher
	// Reachable reports whether a registry answers at the URL of its API.
	Reachable(ctx context.Context, url string) bool
	// Resolve returns the digest of a reference, or registry.ErrNotFound.
	Resolve(ctx context.Context, ref string) (digest string, err error)
}

// Config says where base images may come from. The zero value of the optional
// fields works.
type Config struct {
	Mirrors  []string // "host[/path]" to ask instead of Docker Hub, best first
	Registry string   // host:port of the stack's own registry, where a made image goes
	Client   Client   // required
	Dir      string   // for temporary files: a made layer needs some 200 MB for a moment
	AptDir   string   // the machine's apt configuration; "" is /etc/apt
	Env      []string // environment of the programs that make an image: PATH and proxies
	Arch     string   // of the image, as Go names it: runtime.GOARCH
	Now      func() time.Time
	Log      *slog.Logger // nil discards
}

// Images decides once, when the first build asks.
type Images struct {
	cfg Config

	mu      sync.Mutex // held while deciding: others wait for the answer
	decided bool
	flags   []string
}

// New returns Images that have not decided yet.
func New(cfg Config) *Images {
	if cfg.AptDir == "" {
		cfg.AptDir = "/etc/apt"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Images{cfg: cfg}
}

// Flags are the executor's flags that make it find base images. The first call
// may take a minute, because it asks Docker Hub and makes an image if there is
// no answer; say then tells a person what is going on. Where no image can be
// made either, builds get no flags and say tells why: a build that needs
// nothing from Docker Hub works all the same.
func (im *Images) Flags(ctx context.Context, say func(text string)) ([]string, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.decided {
		return im.flags, nil
	}
	if len(im.cfg.Mirrors) > 0 {
		im.decided, im.flags = true, mirrorFlags(im.cfg.Mirrors)
		return im.flags, nil
	}
	probe, cancel := context.WithTimeoutCause(ctx, probeTimeout, errors.New("no answer from Docker Hub"))
	defer cancel()
	if im.cfg.Client.Reachable(probe, hubURL) {
		im.decided = true
		return nil, nil
	}
	made, err := im.ensure(ctx, say)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		im.cfg.Log.Warn("make base image", "err", err)
		say(fmt.Sprintf("Docker Hub cannot be reached, and no base image could be made: %v. Name a mirror with --base-mirror.", err))
		return nil, nil
	}
	im.decided, im.flags = true, mirrorFlags([]string{im.cfg.Registry})
	say(made)
	return im.flags, nil
}

// mirrorFlags maps Docker Hub to mirrors. Mirrors on this machine are reached
// without TLS.
func mirrorFlags(mirrors []string) []string {
	var flags []string
	for _, m := range mirrors {
		m = strings.TrimSuffix(strings.TrimPrefix(m, "https://"), "/")
		flags = append(flags, "--registry-map", hub+"="+m)
		if addr, _, _ := strings.Cut(m, "/"); loopback(addr) {
			flags = append(flags, "--insecure-registry", addr)
		}
	}
	return flags
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ensure makes the image unless the stack's registry has it. The text tells
// which image builds will get.
func (im *Images) ensure(ctx context.Context, say func(string)) (string, error) {
	ref := im.cfg.Registry + "/" + repository + ":" + tag
	_, err := im.cfg.Client.Resolve(ctx, ref)
	if err == nil {
		return "Docker Hub cannot be reached: debian:" + tag + " is the one made from Debian's archive earlier", nil
	}
	if !errors.Is(err, registry.ErrNotFound) {
		return "", err
	}
	say("Docker Hub cannot be reached: making debian:" + tag + " from Debian's archive with mmdebstrap, once")
	if err := im.make(ctx, ref); err != nil {
		return "", err
	}
	return "made debian:" + tag + " and put it into the stack's own registry as " + ref, nil
}

// make runs mmdebstrap, filters what it writes into a layer and pushes that.
func (im *Images) make(ctx context.Context, ref string) (err error) {
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return errors.New("mmdebstrap is not installed (apt-get install mmdebstrap)")
	}
	dir, err := os.MkdirTemp(im.cfg.Dir, "base-")
	if err != nil {
		return fmt.Errorf("make base image: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	args, err := im.arguments(ctx, dir)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = im.cfg.Env
	var words tail
	cmd.Stderr = &words
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("make base image: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run mmdebstrap: %w", err)
	}
	layer, ferr := writeLayer(dir, out)
	_, derr := io.Copy(io.Discard, out) // what comes after an error, so that it can end
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("run mmdebstrap: %w: %s", err, words.text())
	}
	if err := errors.Join(ferr, derr); err != nil {
		return fmt.Errorf("make base image: %w", err)
	}
	img, err := assemble(layer, im.cfg.Arch, im.cfg.Now())
	if err != nil {
		return err
	}
	return im.cfg.Client.Push(ctx, ref, img)
}

// tail keeps the last of what is written to it.
type tail struct{ buf []byte }

// Write implements io.Writer; it never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - 1000; n > 0 {
		t.buf = t.buf[n:]
	}
	return len(p), nil
}

func (t *tail) text() string {
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(t.buf), "")), " ")
}
