// Package servers runs what stands in for the buckets of clouds in tests, each
// on a free port of 127.0.0.1: fake-gcs-server for Google's, versitygw for
// Amazon's and Azurite for Azure's. It also compiles them, and the newest
// distribution registry, for package registryd.
package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/process"
)

// startTimeout is how long a server may take to answer on a busy machine.
const startTimeout = 60 * time.Second

// Binaries are programs that were compiled: Registry is distribution's
// registry, GCS fake-gcs-server, S3 versitygw.
type Binaries struct{ Registry, GCS, S3 string }

// Compile returns the programs at the versions that module pins, the directory
// of the module e2e/servers. The first call compiles them, some five minutes of
// processor time, and keeps them in the cache; progress goes to log, which may
// be nil.
func Compile(ctx context.Context, dir cache.Dir, module string, log io.Writer) (Binaries, error) {
	key := []string{runtime.Version(), runtime.GOARCH}
	for _, file := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			return Binaries{}, fmt.Errorf("build servers for tests: %w", err)
		}
		key = append(key, string(content))
	}
	entry, err := dir.Get(ctx, "servers", cache.Key(key...), func(ctx context.Context, dir string) error {
		if log != nil {
			fmt.Fprintln(log, "compiling the servers that tests run against (once)")
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/",
			"github.com/distribution/distribution/v3/cmd/registry", "github.com/fsouza/fake-gcs-server", "github.com/versity/versitygw/cmd/versitygw")
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
		_, err := process.Run(ctx, cmd, log)
		return err
	})
	if err != nil {
		return Binaries{}, fmt.Errorf("build servers for tests: %w", err)
	}
	return Binaries{
		Registry: filepath.Join(entry, "registry"), GCS: filepath.Join(entry, "fake-gcs-server"), S3: filepath.Join(entry, "versitygw"),
	}, nil
}

// Server is a running server.
type Server struct {
	Host   string // "127.0.0.1:PORT", plain HTTP
	server *process.Server
}

// Stop ends the server.
func (s *Server) Stop() error { return s.server.Stop() }

// StartGCS runs fake-gcs-server. It knows itself as storage.googleapis.com, so
// it can stand behind that name; a bucket is a directory below dir that is there
// before it starts, an object a file in it.
func StartGCS(ctx context.Context, program, dir string) (*Server, error) {
	return start(ctx, "fake-gcs-server", func(_, port string) *exec.Cmd {
		return exec.Command(program, "-scheme", "http", "-host", "127.0.0.1", "-port", port, "-backend", "filesystem",
			"-filesystem-root", dir, "-public-host", "storage.googleapis.com", "-log-level", "error")
	})
}

// Keys of the user that StartS3 lets in.
const (
	S3Key    = "kilntestkey"
	S3Secret = "kiln-test-secret"
)

// StartS3 runs versitygw with its buckets below dir and the versions of their
// objects below versions, which both must exist.
func StartS3(ctx context.Context, program, dir, versions string) (*Server, error) {
	return start(ctx, "versitygw", func(host, _ string) *exec.Cmd {
		return exec.Command(program, "--access", S3Key, "--secret", S3Secret, "--port", host, "posix", "--versioning-dir", versions, dir)
	})
}

// Account and key that every Azurite has.
const (
	AzureAccount = "devstoreaccount1"
	AzureKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// StartAzure runs the program azurite-blob with its blobs in dir. It takes the
// account from the host that it is asked by, or, if that is an address, from the
// path.
func StartAzure(ctx context.Context, program, dir string) (*Server, error) {
	return start(ctx, "azurite", func(_, port string) *exec.Cmd {
		return exec.Command(program, "--blobHost", "127.0.0.1", "--blobPort", port, "--location", dir, "--disableTelemetry", "--skipApiVersionCheck")
	})
}

// start runs a server on a free port and waits until it answers HTTP.
func start(ctx context.Context, name string, command func(host, port string) *exec.Cmd) (*Server, error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	host := free.Addr().String()
	_, port, err := net.SplitHostPort(host)
	if err := errors.Join(err, free.Close()); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	server, err := process.Start(name, command(host, port), false, nil, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("%s does not answer after %v", name, startTimeout))
	defer cancel()
	for !answers(ctx, "http://"+host+"/") {
		select {
		case <-server.Done():
			return nil, server.Failure()
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), server.Stop())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return &Server{Host: host, server: server}, nil
}

func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return true
}
