package workspace

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// forward listens on a new socket at path and connects whoever comes to the
// agent's own socket, until stop is called. The socket is removed then.
func forward(path string, a Agent) (stop func() error, err error) {
	// A socket's path is short, by way of its directory's descriptor.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("listen for ssh: %w", err)
	}
	defer dir.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))})
	if err != nil {
		return nil, fmt.Errorf("listen for ssh: %w", err)
	}
	l.SetUnlinkOnClose(false)
	f := &forwarder{agent: a.Path, open: map[net.Conn]bool{}}
	f.wait.Go(func() { f.serve(l) })
	stop = func() error {
		err := errors.Join(l.Close(), os.Remove(path))
		f.close()
		return err
	}
	if err := errors.Join(os.Lchown(path, a.UID, a.GID), os.Chmod(path, a.Mode.Perm())); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for ssh: %w", err), stop())
	}
	return stop, nil
}

type forwarder struct {
	agent string
	wait  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

func (f *forwarder) serve(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		f.wait.Go(func() { f.connect(conn) })
	}
}

// connect passes on what one client and the agent say. A client of an agent
// that does not answer is hung up on.
func (f *forwarder) connect(client *net.UnixConn) {
	defer f.drop(client)
	if !f.hold(client) {
		return
	}
	agent, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: f.agent})
	if err != nil {
		return
	}
	defer f.drop(agent)
	if !f.hold(agent) {
		return
	}
	var both sync.WaitGroup
	pass := func(to, from *net.UnixConn) {
		_, _ = io.Copy(to, from)
		_ = to.CloseWrite()
	}
	both.Go(func() { pass(agent, client) })
	both.Go(func() { pass(client, agent) })
	both.Wait()
}

// hold remembers a connection to close, or says that it is too late.
func (f *forwarder) hold(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.open[c] = true
	return true
}

func (f *forwarder) drop(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
	_ = c.Close()
}

func (f *forwarder) close() {
	f.mu.Lock()
	f.closed = true
	for c := range f.open {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.wait.Wait()
}
