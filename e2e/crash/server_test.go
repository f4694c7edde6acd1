package crash

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
	"syscall"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/finish"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/infra/ledger/ledgertest"
	"github.com/kilnhook/kiln/infra/local/launch"
	"github.com/kilnhook/kiln/infra/local/localtest"
	"github.com/kilnhook/kiln/infra/local/registry"
	"github.com/kilnhook/kiln/infra/local/serving"
)

// Variables of the environment, read by this test binary alone, that make it the
// server and say at which step it kills itself. The product has no such hook: the
// steps are those of what the dispatcher is given.
const (
	dirVariable      = "KILN_CRASH_DIR"
	registryVariable = "KILN_CRASH_REGISTRY"
	contextVariable  = "KILN_CRASH_CONTEXT"
	pointVariable    = "KILN_CRASH_AT"        // "after create builds/*/request.json"
	platformVariable = "KILN_CRASH_PLATFORMS" // of the trigger, "linux/amd64, linux/arm64"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "executor" {
		os.Exit(localtest.Executor(context.Background(), localtest.Process{Args: os.Args[2:], Stderr: os.Stderr, Getenv: os.Getenv, Now: time.Now}))
	}
	if dir := os.Getenv(dirVariable); dir != "" {
		if err := serve(dir, &fault{at: os.Getenv(pointVariable), seen: map[ledger.Step]int{}}); err != nil {
			fmt.Fprintln(os.Stderr, "server:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// fault kills the process when it comes to its step.
type fault struct {
	at string

	mu   sync.Mutex
	seen map[ledger.Step]int
}

// step is called before and after everything that is done to the world.
func (f *fault) step(name string) {
	if f.at == "" || !match(f.at, name) {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until the signal arrives
}

// count is called after every step of the ledger's writes, which have numbers.
func (f *fault) count(s ledger.Step) {
	f.mu.Lock()
	f.seen[s]++
	name := fmt.Sprintf("ledger %s %d", s, f.seen[s])
	f.mu.Unlock()
	f.step(name)
}

// match compares word by word; a star in the last stands for one part of a key.
func match(point, name string) bool {
	ok, err := filepath.Match(point, name)
	return err == nil && ok
}

// launcher is a launcher with steps.
type launcher struct {
	serving.Launcher
	*fault
}

func (l launcher) Launch(ctx context.Context, req events.Request) error {
	l.step("before launch " + req.BuildID)
	err := l.Launcher.Launch(ctx, req)
	l.step("after launch " + req.BuildID)
	return err
}

func (l launcher) Cancel(ctx context.Context, id string) error {
	l.step("before cancel")
	err := l.Launcher.Cancel(ctx, id)
	l.step("after cancel")
	return err
}

const (
	secret   = "0123456789abcdef"
	kilnYAML = "name: app\non: {git: {repo: github.com/acme/shop}}\npush: {image: %s/app, tags: ['{{ .Ref.Slug }}']}\nbuild: {platforms: [%s]}\n"
)

// serve runs a dispatcher with everything real, and prints its address, until
// standard input ends.
func serve(dir string, f *fault) (err error) {
	store, err := ledger.OpenDirWith(filepath.Join(dir, "ledger"), ledger.DirOptions{JournalBytes: 2 << 10, Step: f.count})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	l := &ledgertest.Faulty{Store: store, Fault: func(step string) error { f.step(step); return nil }}
	b, err := bus.Open(filepath.Join(dir, "bus"), bus.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	publish := func(ctx context.Context, e event.Event) error {
		f.step("before publish " + e.Type() + " " + e.ID())
		_, err := b.Publish(ctx, e)
		f.step("after publish " + e.Type() + " " + e.ID())
		return err
	}
	client := registry.Client{}
	var executors *launch.Launcher
	finisher, err := finish.New(finish.Config{
		Ledger: l, Publish: publish, Now: time.Now, CheckDigest: client.CheckDigest,
		PushIndex: func(ctx context.Context, repository string, platforms []events.PlatformInfo) (digest, mediaType string, err error) {
			f.step("before index")
			digest, mediaType, err = client.PushIndex(ctx, repository, platforms)
			f.step("after index")
			return digest, mediaType, err
		},
		Stop: func(ctx context.Context, id string) error {
			f.step("before stop")
			err := executors.Cancel(ctx, id)
			f.step("after stop")
			return err
		},
		MoveTags: func(ctx context.Context, repository, digest string, tags []string) error {
			f.step("before tags")
			err := client.MoveTags(ctx, repository, digest, tags)
			f.step("after tags")
			return err
		},
	})
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	executors, err = launch.Open(launch.Config{
		Dir: filepath.Join(dir, "builds"), Executor: []string{exe, "executor"}, Env: []string{"PATH=" + os.Getenv("PATH")}, Finish: finisher.Finish, Now: time.Now,
		Started: func(ctx context.Context, req events.Request, at time.Time) error {
			e, err := events.StartedEvent(req, at)
			if err != nil {
				return err
			}
			return publish(ctx, e)
		},
	})
	if err != nil {
		return err
	}
	set, err := trigger.Parse("kiln.yaml", fmt.Appendf(nil, kilnYAML, os.Getenv(registryVariable), os.Getenv(platformVariable)))
	if err != nil {
		return err
	}
	d, err := dispatch.New(dispatch.Config{
		Ledger: l, Triggers: set, Launcher: launcher{serving.Launcher{L: executors}, f}, Publish: publish, Install: "crash", Finisher: finisher,
		Context:       func(events.Change) (string, error) { return "tar://" + os.Getenv(contextVariable), nil },
		GitHubSecrets: [][]byte{[]byte(secret)}, Now: time.Now,
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { _ = executors.Run(ctx) }()
	go func() {
		for ctx.Err() == nil {
			if err := d.Sweep(ctx); err != nil {
				fmt.Fprintln(os.Stderr, "sweep:", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + listener.Addr().String())
	h := d.Handler()
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&answerer{w, f}, r)
	})}
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); _ = srv.Close() }()
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// answerer has the last step: before the sender is answered.
type answerer struct {
	http.ResponseWriter
	*fault
}

func (a *answerer) WriteHeader(status int) {
	a.step("before answer")
	a.ResponseWriter.WriteHeader(status)
}
