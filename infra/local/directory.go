package local

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/durable"
	"github.com/kilnhook/kiln/infra/local/exclusive"
)

// ErrInUse means that another stack has the data directory.
var ErrInUse = errors.New("another kiln uses this data directory")

const addressName = "address.json"

// openDir makes the data directory, takes it for this process and reads the
// installation's name, which it gets once.
func (s *Stack) openDir(context.Context) error {
	if err := os.MkdirAll(s.path("tmp"), 0o700); err != nil {
		return err
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	if err := clear(s.path("tmp")); err != nil {
		return err
	}
	data, err := os.ReadFile(s.path("install"))
	if errors.Is(err, fs.ErrNotExist) {
		raw := make([]byte, 5)
		if _, err := rand.Read(raw); err != nil {
			return err
		}
		data = []byte("local-" + strings.ToLower(base32.StdEncoding.EncodeToString(raw)))
		err = durable.WriteFile(s.path("install"), data, 0o600)
	}
	s.install = strings.TrimSpace(string(data))
	return err
}

// takeLock locks the data directory until the process ends.
func (s *Stack) takeLock() error {
	f, err := exclusive.Lock(s.path("lock"))
	if err == nil {
		s.lock = f
		return nil
	}
	if !errors.Is(err, exclusive.ErrLocked) {
		return err
	}
	where := ""
	if a, aerr := readAddress(s.path(addressName)); aerr == nil {
		where = fmt.Sprintf(" (process %d, at %s)", a.PID, a.HTTP)
	}
	return fmt.Errorf("%w%s: use that one, stop it, or name another directory with --data", ErrInUse, where)
}

// clear removes what is in a directory.
func clear(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func readAddress(path string) (api.Address, error) {
	var a api.Address
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	return a, err
}

// listen opens both listeners. Where the port is left to chance, the last one
// is tried first: images are named by it.
func (s *Stack) listen(ctx context.Context) (err error) {
	first := s.cfg.Listen
	if first == "" {
		first = DefaultListen
	}
	last, err := readAddress(s.path(addressName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.cfg.Log.Warn("read the last address", "err", err)
	}
	if s.http, err = listenOn(ctx, first, last.HTTP); err != nil {
		return fmt.Errorf("%w: choose another address with --listen, as in --listen 127.0.0.1:0", err)
	}
	second := s.cfg.ListenS3
	if second == "" {
		if second, err = nextPort(first); err != nil {
			return err
		}
	}
	if s.s3, err = listenOn(ctx, second, last.S3); err != nil {
		return fmt.Errorf("%w: choose another address with --listen-s3", err)
	}
	return nil
}

func listenOn(ctx context.Context, address, last string) (net.Listener, error) {
	var lc net.ListenConfig
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen address %q is not host:port", address)
	}
	last = strings.TrimPrefix(last, "http://")
	if lastHost, _, err := net.SplitHostPort(last); port == "0" && err == nil && lastHost == host {
		if l, err := lc.Listen(ctx, "tcp", last); err == nil {
			return l, nil
		}
	}
	return lc.Listen(ctx, "tcp", address)
}

// nextPort is the address with the port after, or any port if that is open.
func nextPort(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("listen address %q is not host:port", address)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 65535 {
		return "", fmt.Errorf("there is no port after %s: say where S3 is to listen", address)
	}
	if n > 0 {
		n++
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

// Address says where the stack listens.
func (s *Stack) Address() api.Address {
	return api.Address{HTTP: s.URL(), S3: s.S3URL(), PID: os.Getpid()}
}
