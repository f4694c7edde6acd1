package main

import (
	"errors"
	"net"
	"sync"
	"time"
)

// relay passes connections on and delays everything by half a round trip each
// way. A new connection takes a round trip more before its first bytes pass, as
// the handshake of TCP does. How much passes in a time is not limited.
type relay struct {
	host     string
	target   string
	rtt      time.Duration
	listener net.Listener
	open     sync.WaitGroup
}

func newRelay(target string, rtt time.Duration) (*relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{host: listener.Addr().String(), target: target, rtt: rtt, listener: listener}
	r.open.Go(r.accept)
	return r, nil
}

// close stops to accept and waits until all connections have ended.
func (r *relay) close() error {
	err := r.listener.Close()
	r.open.Wait()
	return err
}

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.open.Go(func() { r.serve(client, time.Now()) })
	}
}

func (r *relay) serve(client net.Conn, accepted time.Time) {
	defer client.Close()
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { r.pass(server, client, accepted.Add(r.rtt)) })
	both.Go(func() { r.pass(client, server, time.Time{}) })
	both.Wait()
}

// chunk is what was read, and when it may be written.
type chunk struct {
	data []byte
	due  time.Time
	err  error
}

// pass copies from one connection to the other until one of them ends. Nothing
// passes before first and half a round trip.
func (r *relay) pass(to, from net.Conn, first time.Time) {
	chunks := make(chan chunk, 64)
	stop := make(chan struct{})
	go func() {
		defer close(chunks)
		for {
			buffer := make([]byte, 64<<10)
			n, err := from.Read(buffer)
			at := time.Now()
			if at.Before(first) {
				at = first
			}
			select {
			case chunks <- chunk{buffer[:n], at.Add(r.rtt / 2), err}:
			case <-stop:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer close(stop)
	for c := range chunks {
		time.Sleep(time.Until(c.due))
		if _, err := to.Write(c.data); err != nil {
			// The other direction must not wait for what cannot come.
			_ = errors.Join(from.Close(), to.Close())
			return
		}
	}
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}
