// Package registryd runs a private container registry for tests: the
// distribution registry, as Debian packages it or newer, on a free port of
// 127.0.0.1.
package registryd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/process"
)

// startTimeout is how long the registry may take to listen on a busy machine.
const startTimeout = 30 * time.Second

// Registry is a running registry.
type Registry struct {
	Host   string // "127.0.0.1:PORT"
	server *process.Server
}

// Options of a registry. The zero value speaks plain HTTP to everybody.
type Options struct {
	// Certificate and Key are PEM files: the registry speaks HTTPS.
	Certificate, Key string
	// ClientCA is a PEM file: whoever has no certificate of that authority
	// cannot connect. It needs a Certificate.
	ClientCA string
	// Users is an htpasswd file with bcrypt hashes: nobody else is let in.
	Users string
}

// Start runs the program docker-registry with its blobs in dir, which must
// exist, and waits until it listens. What it logs goes to log, which may be nil.
func Start(ctx context.Context, program, dir string, log io.Writer) (*Registry, error) {
	return StartWith(ctx, program, dir, Options{}, log)
}

// StartWith is Start with options. The program is Debian's docker-registry or
// the command registry of distribution's module.
func StartWith(ctx context.Context, program, dir string, opt Options, log io.Writer) (*Registry, error) {
	config := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(config, []byte(opt.configuration(filepath.Join(dir, "data"))), 0o644); err != nil {
		return nil, fmt.Errorf("configure registry: %w", err)
	}
	cmd := exec.Command(program, "serve", config)
	cmd.Env = []string{"HOME=" + dir, "OTEL_TRACES_EXPORTER=none"}
	hosts := make(chan string, 1)
	listening := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
	server, err := process.Start("registry", cmd, false, log, func(line string) {
		if m := listening.FindStringSubmatch(line); m != nil {
			select {
			case hosts <- m[1]:
			default:
			}
		}
	})
	if err != nil {
		return nil, err
	}
	select {
	case host := <-hosts:
		return &Registry{Host: host, server: server}, nil
	case <-server.Done():
		return nil, server.Failure()
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), server.Stop())
	case <-time.After(startTimeout):
		return nil, errors.Join(fmt.Errorf("the registry does not listen after %v:\n%s", startTimeout, server.Last()), server.Stop())
	}
}

// configuration lets the kernel choose the port and removes nothing behind
// our back.
func (o Options) configuration(data string) string {
	text := fmt.Sprintf(`version: 0.1
log: {level: info, formatter: text}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
  maintenance: {uploadpurging: {enabled: false}}
`, data)
	if o.Users != "" {
		text += fmt.Sprintf("auth: {htpasswd: {realm: kiln, path: %q}}\n", o.Users)
	}
	text += "http:\n  addr: \"127.0.0.1:0\"\n"
	if o.Certificate != "" {
		text += fmt.Sprintf("  tls:\n    certificate: %q\n    key: %q\n", o.Certificate, o.Key)
	}
	if o.ClientCA != "" {
		text += fmt.Sprintf("    clientcas: [%q]\n", o.ClientCA)
	}
	return text
}

// Stop ends the registry. Its directory stays.
func (r *Registry) Stop() error { return r.server.Stop() }
