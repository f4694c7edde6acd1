package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// Dial connects to the dispatcher, through the API server, to whatever pod serves now.
// It has the form of net.Dialer's method; network and address do not count.
func (c *Cluster) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	p, err := c.pod(ctx)
	if err != nil {
		return nil, err
	}
	port, err := port(p)
	if err != nil {
		return nil, err
	}
	conn, err := c.connect(ctx, p.Name)
	if err != nil {
		if strings.Contains(err.Error(), "orbidden") { // of two libraries, each with words of its own
			return nil, fmt.Errorf("you may not connect to pods in namespace %s of context %s: ask for the Role that docs/operating.md has for users (%w)", c.namespace, c.context, err)
		}
		return nil, fmt.Errorf("connect to pod %s through the API server: %w", p.Name, err)
	}
	stream, err := open(conn, p.Name, port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to port %d of pod %s: %w", port, p.Name, err), conn.Close())
	}
	return stream, nil
}

// connect upgrades a request to a connection with streams: by WebSocket, or by SPDY with
// an API server or a proxy on the way that knows no better.
func (c *Cluster) connect(ctx context.Context, pod string) (httpstream.Connection, error) {
	u := c.path("pods", pod, "portforward")
	overWebSocket, err := portforward.NewSPDYOverWebsocketDialer(u, c.config)
	if err != nil {
		return nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, err
	}
	dialer := portforward.NewFallbackDialer(overWebSocket, spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u),
		func(err error) bool { return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err) })
	type dialled struct {
		conn httpstream.Connection
		err  error
	}
	done := make(chan dialled, 1)
	go func() {
		conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name) // takes no context
		done <- dialled{conn, err}
	}()
	select {
	case d := <-done:
		return d.conn, d.err
	case <-ctx.Done():
		go func() {
			if d := <-done; d.err == nil {
				_ = d.conn.Close() // nobody wants it any more
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// open opens the pair of streams of one connection to a port.
func open(conn httpstream.Connection, pod string, port int32) (*stream, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	problems, err := conn.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	if err := problems.Close(); err != nil { // we say nothing on it
		return nil, err
	}
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	s := &stream{Stream: data, conn: conn, pod: address(fmt.Sprintf("%s:%d", pod, port)), problem: make(chan error, 1)}
	go func() {
		text, err := io.ReadAll(io.LimitReader(problems, 4096))
		if err == nil && len(text) > 0 {
			err = errors.New(strings.TrimSpace(string(text)))
		}
		s.problem <- err
		if err != nil {
			_ = data.Reset() // wakes who reads
		}
	}()
	return s, nil
}

// stream is a connection to a port of a pod.
type stream struct {
	httpstream.Stream
	conn    httpstream.Connection
	pod     address
	problem chan error // what the node has to say, once
	once    sync.Once
}

// problemTime is how long after the end of a connection the node may say why.
const problemTime = 500 * time.Millisecond

// Read implements net.Conn. What went wrong on the node takes the place of an early end.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err != nil {
		select {
		case problem := <-s.problem:
			if problem != nil {
				return n, fmt.Errorf("connection to %s: %w", s.pod, problem)
			}
		case <-time.After(problemTime):
		}
	}
	return n, err
}

// Close implements net.Conn.
func (s *stream) Close() (err error) {
	s.once.Do(func() { err = s.conn.Close() })
	return err
}

// LocalAddr implements net.Conn.
func (s *stream) LocalAddr() net.Addr { return address("kiln") }

// RemoteAddr implements net.Conn.
func (s *stream) RemoteAddr() net.Addr { return s.pod }

// SetDeadline implements net.Conn; there are no deadlines, requests end with their
// context.
func (s *stream) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn as SetDeadline does.
func (s *stream) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn as SetDeadline does.
func (s *stream) SetWriteDeadline(time.Time) error { return nil }

// address names one end of a connection.
type address string

// Network implements net.Addr.
func (a address) Network() string { return "pod" }

func (a address) String() string { return string(a) }
