package transport

import (
	"context"
	"net"
	"time"
)

// Dial connects as the transport does, for what is not HTTP: in 30 s at most,
// and not to link-local addresses.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Control: refuseLinkLocal}
	return d.DialContext(ctx, network, address)
}
