// Package podlog keeps what executors print in pods: it reads their logs through the
// API server while they run, and puts each whole into the ledger when its build has
// ended, where it outlives its pod.
//
// A build's log is read into a file, its tape, of which it is served from any byte on:
// by the dispatcher that leads for every build, by another when somebody asks. What is
// in the ledger is the tape of the one that came first; a tape can always be made anew
// from the pod, so nothing depends on who makes it. Lines are events.Progress; what is
// not, becomes a note with the time that the node has for it.
package podlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/wait"
	"github.com/kilnhook/kiln/knative/launch"
)

// Ledger is the part of a ledger that logs are kept in.
type Ledger interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	Create(ctx context.Context, key string, data []byte) (version string, err error)
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
}

// Config of a Keeper. Client, Namespace, Ledger, Dir and Now are required.
type Config struct {
	Client    kubernetes.Interface
	Namespace string // of the pods
	Ledger    Ledger
	// Selector is the label selector of the pods of a request's executor, which are
	// read in the order in which they were made; nil is that of the launcher of Jobs.
	Selector func(req events.Request) string
	// Dir is where tapes are. It is the Keeper's alone and emptied when it begins.
	Dir string
	// Follow is how many logs are followed at once; 0 is 256. The others are read
	// when their executor has ended.
	Follow int
	// MaxLog is how many bytes are kept of the log of one executor; 0 is 16 MiB.
	// Beyond them output is left out, and beyond half as much again everything.
	MaxLog int64
	Now    func() time.Time
	Log    *slog.Logger // nil discards
}

const (
	defaultFollow = 256
	defaultMaxLog = 16 << 20
	// reading is how many logs of executors that have ended are read at once.
	reading = 8
	// idle is how long a tape is kept that nobody reads.
	idle = time.Minute
	// settle is how long after the end of a build its log may still be on its way.
	settle = time.Minute
)

// Keeper reads and keeps logs. Its methods may be called at once from any number of
// goroutines, and there may be several on one ledger.
type Keeper struct {
	cfg   Config
	spawn func(func(ctx context.Context)) // runs until the Keeper ends
	done  func()                          // ends what was spawned, and waits for it
	live  chan struct{}                   // a token for each log that is followed
	ended chan struct{}                   // a token for each log that is read at its end

	mu    sync.Mutex
	tapes map[string]*tape
}

// New returns a Keeper, which works until ctx is done or it is closed.
func New(ctx context.Context, cfg Config) (*Keeper, error) {
	if cfg.Client == nil || cfg.Namespace == "" || cfg.Ledger == nil || cfg.Dir == "" || cfg.Now == nil {
		return nil, errors.New("keeper of logs needs a client, a namespace, a ledger, a directory and a clock")
	}
	if cfg.Follow <= 0 {
		cfg.Follow = defaultFollow
	}
	if cfg.MaxLog <= 0 {
		cfg.MaxLog = defaultMaxLog
	}
	if cfg.Selector == nil {
		cfg.Selector = func(req events.Request) string { return launch.LabelBuild + "=" + req.BuildID }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := errors.Join(os.RemoveAll(cfg.Dir), os.MkdirAll(cfg.Dir, 0o700)); err != nil {
		return nil, fmt.Errorf("prepare directory for logs: %w", err)
	}
	running, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	k := &Keeper{
		cfg: cfg, live: make(chan struct{}, cfg.Follow), ended: make(chan struct{}, reading), tapes: map[string]*tape{},
		spawn: func(f func(context.Context)) { wg.Go(func() { f(running) }) },
		done:  func() { cancel(errClosed); wg.Wait() },
	}
	k.spawn(k.tidy)
	return k, nil
}

// errClosed is why reading of logs ends.
var errClosed = errors.New("the keeper of logs is closed")

// Close ends all reading. What is not in the ledger yet another Keeper puts there.
func (k *Keeper) Close() error {
	k.done()
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, t := range k.tapes {
		t.remove()
		delete(k.tapes, id)
	}
	return nil
}

// Began says that the executor of a request runs: its log is followed and kept.
func (k *Keeper) Began(req events.Request) {
	k.tape(req).keep(false)
}

// Ended says that the outcome of a request is known: its log is put into the ledger,
// if it is not there, once the executor has said its last word.
func (k *Keeper) Ended(ctx context.Context, req events.Request) error {
	k.mu.Lock()
	t := k.tapes[req.BuildID]
	k.mu.Unlock()
	if t == nil {
		kept, err := k.cfg.Ledger.List(ctx, record.LogKey(req.BuildID), "", 1)
		if err != nil {
			return fmt.Errorf("look for the log of build %s: %w", req.BuildID, err)
		}
		if len(kept) > 0 {
			return nil
		}
		t = k.tape(req)
	}
	t.keep(true)
	return nil
}

// tape is the tape of a request, which is made if there is none.
func (k *Keeper) tape(req events.Request) *tape {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t := k.tapes[req.BuildID]; t != nil {
		t.touch(k.cfg.Now())
		return t
	}
	platform := ""
	if req.PartOf != "" {
		platform = req.Platform
	}
	t := newTape(req.BuildID, platform, k.cfg.Dir, k.cfg.Now())
	t.whole, t.selector = req.Whole(), k.cfg.Selector(req)
	k.tapes[req.BuildID] = t
	k.spawn(func(ctx context.Context) {
		err := k.record(ctx, t)
		if err == nil {
			t.end()
			k.store(ctx, t)
			return
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errUnused) && ctx.Err() == nil {
			k.cfg.Log.Warn("read log", "build", t.id, "err", err)
		}
		k.mu.Lock()
		delete(k.tapes, t.id)
		k.mu.Unlock()
		t.fail(err)
		if t.isWanted() && wait.For(ctx, idle) == nil { // the spool may have room again
			k.tape(req).keep(t.isDecided())
		}
	})
	return t
}

// tidy forgets tapes that nobody reads, now and then.
func (k *Keeper) tidy(ctx context.Context) {
	ticker := time.NewTicker(idle / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		k.mu.Lock()
		for id, t := range k.tapes {
			if !t.spare(k.cfg.Now()) {
				continue
			}
			delete(k.tapes, id)
			t.remove()
		}
		k.mu.Unlock()
	}
}

// fetch puts the log that is in the ledger on a tape. The error wraps fs.ErrNotExist
// if none is.
func (k *Keeper) fetch(ctx context.Context, t *tape) error {
	data, _, err := k.cfg.Ledger.Get(ctx, record.LogKey(t.id))
	if err != nil {
		return fmt.Errorf("get log of build %s: %w", t.id, err)
	}
	in, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("read log of build %s: %w", t.id, err)
	}
	const most = 64 << 20 // of what no Keeper of ours has written
	if err := t.copyFrom(io.LimitReader(in, most)); err != nil {
		return fmt.Errorf("read log of build %s: %w", t.id, err)
	}
	return nil
}

// store puts a tape that has ended into the ledger, if it is not from there.
func (k *Keeper) store(ctx context.Context, t *tape) {
	for pause := time.Second; t.unstored(); pause = min(2*pause, 30*time.Second) {
		err := k.put(ctx, t)
		if err == nil {
			t.stored()
			return
		}
		k.cfg.Log.Warn("keep log; trying again", "build", t.id, "err", err)
		if wait.For(ctx, pause) != nil {
			return
		}
	}
}

func (k *Keeper) put(ctx context.Context, t *tape) error {
	select {
	case k.ended <- struct{}{}:
		defer func() { <-k.ended }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var packed bytes.Buffer
	out := gzip.NewWriter(&packed)
	if err := errors.Join(t.copyTo(out), out.Close()); err != nil {
		return fmt.Errorf("pack log of build %s: %w", t.id, err)
	}
	_, err := k.cfg.Ledger.Create(ctx, record.LogKey(t.id), packed.Bytes())
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("store log of build %s: %w", t.id, err)
	}
	return nil
}
