package transport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxSpare is how long a connection that was opened early is kept for who needs
// one. It is short: a server may close one on which nobody asks anything.
const maxSpare = 4 * time.Second

// spares are connections that were opened before anybody needed them, so that who
// does need not wait for a handshake.
type spares struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu    sync.Mutex
	ready map[string][]*spare // by address
}

// spare is one that is opened, or being opened.
type spare struct {
	done   chan struct{}
	conn   net.Conn // nil: it failed
	err    error    // why
	expiry *time.Timer
}

// Warm opens n connections to where rt would send requests for a URL by plain
// HTTP, in the background, for requests that are sent within seconds. By HTTPS it
// opens none: HTTP/2 needs one for any number of requests. Neither does it where a
// proxy is used, or if New did not make rt.
func Warm(ctx context.Context, rt http.RoundTripper, to *url.URL, n int) {
	t, ok := rt.(*roundTripper)
	if !ok || to.Scheme != "http" {
		return
	}
	if t.inner.Proxy != nil {
		if proxy, err := t.inner.Proxy(&http.Request{Method: http.MethodGet, URL: to, Header: http.Header{}}); proxy != nil || err != nil {
			return
		}
	}
	port := to.Port()
	if port == "" {
		port = "80"
	}
	t.spares.open(ctx, net.JoinHostPort(to.Hostname(), port), n)
}

func (s *spares) open(ctx context.Context, address string, n int) {
	ctx = context.WithoutCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		x := &spare{done: make(chan struct{})}
		x.expiry = time.AfterFunc(maxSpare, func() { s.drop(address, x) })
		s.ready[address] = append(s.ready[address], x)
		go func() {
			defer close(x.done)
			x.conn, x.err = s.dial(ctx, "tcp", address)
		}()
	}
}

// connect returns a spare connection if there is one, or a new one. Of one that is being
// opened it returns the error too: to open another would take as long again.
func (s *spares) connect(ctx context.Context, network, address string) (net.Conn, error) {
	for x := s.take(address, nil); x != nil; x = s.take(address, nil) {
		select {
		case <-x.done:
			if x.err == nil && !ended(x.conn) {
				return x.conn, nil
			}
			x.close()
			continue
		default:
		}
		select {
		case <-x.done:
			return x.conn, x.err
		case <-ctx.Done():
			x.close()
			return nil, ctx.Err()
		}
	}
	return s.dial(ctx, network, address)
}

// ended tells whether a connection on which nothing was sent cannot be used any more:
// the other side has closed it, or says that it will.
func ended(conn net.Conn) bool {
	tcp, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	over := false
	err = raw.Control(func(fd uintptr) {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		over = !errors.Is(err, unix.EAGAIN)
	})
	return over || err != nil
}

// take removes a spare connection, the oldest one if x is nil.
func (s *spares) take(address string, x *spare) *spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, y := range s.ready[address] {
		if x == nil || x == y {
			s.ready[address] = append(s.ready[address][:i:i], s.ready[address][i+1:]...)
			y.expiry.Stop()
			return y
		}
	}
	return nil
}

// drop gives up one that nobody took.
func (s *spares) drop(address string, x *spare) {
	if s.take(address, x) != nil {
		x.close()
	}
}

// close closes a connection as soon as it is opened.
func (x *spare) close() {
	go func() {
		<-x.done
		if x.err == nil {
			_ = x.conn.Close()
		}
	}()
}
