// Package port gives tests ports of the loopback that nobody else gets.
//
// A port that was free a moment ago is not free: another test, of another process, may
// have been given it meanwhile. So a port of this package comes from below the range that
// the kernel takes from for port 0 and for outgoing connections (ip(7),
// ip_local_port_range), and belongs to one test until it ends.
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// The ports that are given out, the last one not included. They end where those of
// Kubernetes' Services begin.
const first, last = 20000, 30000

// Free returns "127.0.0.1:PORT" with a port that nobody listens on and that is given to
// nobody else before the test ends: for a server that cannot choose its port itself, or
// one that comes back at the same.
func Free(t testing.TB) string {
	t.Helper()
	return address(take(t, 1))
}

// Row returns the first of n ports in a row, each as one of Free.
func Row(t testing.TB, n int) int {
	t.Helper()
	return take(t, n)
}

// Closed returns "127.0.0.1:PORT" where connections are refused until the test ends.
func Closed(t testing.TB) string {
	t.Helper()
	a, release, err := Refuse()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return a
}

// Refuse is Closed for those that have no test: it returns the address and what gives it
// back.
func Refuse() (string, func(), error) {
	// Bound without SO_REUSEADDR and not listening: nobody else can bind it.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("make a socket: %w", err)
	}
	release := func() { _ = unix.Close(fd) }
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		release()
		return "", nil, fmt.Errorf("bind a port of the loopback: %w", err)
	}
	name, err := unix.Getsockname(fd)
	bound, ok := name.(*unix.SockaddrInet4)
	if err != nil || !ok {
		release()
		return "", nil, fmt.Errorf("read the address of a socket, %T: %w", name, err)
	}
	return address(bound.Port), release, nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// take reserves n ports in a row and returns the first.
func take(t testing.TB, n int) int {
	t.Helper()
	for range 1000 {
		p := first + rand.IntN(last-first-n)
		if release := reserve(p, n); release != nil {
			t.Cleanup(release)
			return p
		}
	}
	t.Fatalf("there are no %d free ports in a row", n)
	return 0
}

// reserve returns what gives n ports back from p on, or nil where one is not free.
func reserve(p, n int) func() {
	var held []net.Listener
	release := func() {
		for _, l := range held {
			_ = l.Close()
		}
	}
	for i := p; i < p+n; i++ {
		// A name in the abstract namespace (unix(7)) stands for the port: it is one
		// process's, and is gone with it.
		name, err := net.Listen("unix", "@kiln-test-port-"+strconv.Itoa(i))
		if err != nil {
			release()
			return nil
		}
		held = append(held, name)
		l, err := net.Listen("tcp", address(i))
		if err != nil {
			release()
			return nil
		}
		_ = l.Close()
	}
	return release
}
