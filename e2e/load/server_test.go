package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/finish"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/ledger"
)

// noOp is a launcher whose builds have succeeded as soon as they are launched.
type noOp struct {
	mu       sync.Mutex
	known    map[string]bool
	launched *os.File
	done     chan string
}

func (l *noOp) Launch(_ context.Context, req events.Request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[req.BuildID] {
		return dispatch.ErrExists
	}
	l.known[req.BuildID] = true
	if _, err := fmt.Fprintln(l.launched, req.BuildID); err != nil {
		return err
	}
	l.done <- req.BuildID
	return nil
}

func (*noOp) Cancel(context.Context, string) error { return nil }

// serve runs a dispatcher with everything real but the launcher, and prints its
// address, until standard input ends.
func serve(dir string) (err error) {
	l, err := ledger.OpenDir(filepath.Join(dir, "ledger"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	b, err := bus.Open(filepath.Join(dir, "bus"), bus.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	publish := func(ctx context.Context, e event.Event) error { _, err := b.Publish(ctx, e); return err }
	finisher, err := finish.New(finish.Config{Ledger: l, Publish: publish, Now: time.Now})
	if err != nil {
		return err
	}
	launched, err := os.Create(filepath.Join(dir, "launched"))
	if err != nil {
		return err
	}
	defer launched.Close()
	launcher := &noOp{known: map[string]bool{}, launched: launched, done: make(chan string, 100_000)}
	set, err := trigger.Parse("kiln.yaml", []byte("name: app\non: {git: {repo: github.com/acme/shop}}\n"))
	if err != nil {
		return err
	}
	d, err := dispatch.New(dispatch.Config{
		Ledger: l, Triggers: set, Launcher: launcher, Publish: publish, Install: "load", Finisher: finisher,
		GitHubSecrets: [][]byte{[]byte(secret)}, Now: time.Now,
	})
	if err != nil {
		return err
	}
	for range 4 {
		go func() {
			for id := range launcher.done {
				if _, err := finisher.Finish(context.Background(), id, events.Result{Outcome: events.OutcomeSuccess, FinishedAt: time.Now()}); err != nil {
					fmt.Fprintln(os.Stderr, "finish:", err)
				}
			}
		}()
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + listener.Addr().String())
	srv := &http.Server{Handler: d.Handler(), ReadHeaderTimeout: time.Minute}
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); _ = srv.Close() }()
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
