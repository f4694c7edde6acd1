package launch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/durable"
)

// live is the file of a build that has not ended.
type live struct {
	Request events.Request `json:"request"`
	State   State          `json:"state"`
	Since   time.Time      `json:"since"`
	Order   int64          `json:"order"`             // place in the queue, ascending
	Process *processID     `json:"process,omitempty"` // of the executor, once it runs
	Outcome *events.Result `json:"outcome,omitempty"` // once it is known

	announcing bool // somebody is at Finish
}

// outcome is what became of the last attempt of a build that has ended.
type outcome struct {
	Attempt int           `json:"attempt"`
	Result  events.Result `json:"result"`
}

func (l *Launcher) livePath(id string) string { return l.path(liveName, id+".json") }

func (l *Launcher) save(b *build) error {
	data, err := json.Marshal(b.live)
	if err != nil {
		return fmt.Errorf("note build %s: %w", b.Request.BuildID, err)
	}
	return durable.WriteFile(l.livePath(b.Request.BuildID), data, 0o600)
}

func (l *Launcher) readOutcome(id string) (outcome, error) {
	var o outcome
	data, err := os.ReadFile(l.path(id, outcomeName))
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	return o, err
}

// recover takes up what the last Launcher left in live/.
func (l *Launcher) recover() error {
	entries, err := os.ReadDir(l.path(liveName))
	if err != nil {
		return fmt.Errorf("open launcher: %w", err)
	}
	var waiting []*build
	for _, e := range entries {
		path := l.path(liveName, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			if err := os.Remove(path); err != nil { // a write that a crash cut short
				return fmt.Errorf("open launcher: %w", err)
			}
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("open launcher: %w", err)
		}
		var note live
		if err := json.Unmarshal(data, &note); err != nil || note.Request.BuildID+".json" != filepath.Base(path) {
			l.cfg.Log.Warn("forget a build whose note cannot be read; a sweep starts it again", "path", path, "err", err)
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("open launcher: %w", err)
			}
			continue
		}
		b := l.newBuild(note)
		if l.takeUp(b) {
			waiting = append(waiting, b)
		}
	}
	slices.SortFunc(waiting, func(a, b *build) int { return cmp.Compare(a.Order, b.Order) })
	for _, b := range waiting {
		l.queue.Restore(itemOf(b))
		l.last = b.Order
	}
	l.poke()
	return nil
}

// takeUp puts one build back where it was and reports whether it waits.
func (l *Launcher) takeUp(b *build) (waits bool) {
	id := b.Request.BuildID
	switch b.State {
	case Queued:
		l.builds[id] = b
		return true
	case Finishing:
		l.builds[id] = b
		return false
	}
	if b.Process != nil {
		if n := b.Process.killLeft(); n > 0 {
			l.cfg.Log.Warn("killed what an executor left behind", "build", id, "processes", n)
		}
	}
	l.removeWork(id)
	// An executor that had just finished well, or failed on its own account,
	// need not do it again.
	if res, err := l.readResult(id); err == nil && (res.Outcome == events.OutcomeSuccess || res.Outcome == events.OutcomeFailed) {
		b.State, b.Since, b.Outcome = Finishing, l.cfg.Now().UTC(), &res
		if err := l.save(b); err == nil {
			l.builds[id] = b
			return false
		}
	}
	if err := durable.Remove(l.livePath(id)); err != nil {
		l.cfg.Log.Warn("forget a lost build", "build", id, "err", err)
	}
	return false
}

// readResult reads what the executor claims.
func (l *Launcher) readResult(id string) (events.Result, error) {
	var res events.Result
	data, err := os.ReadFile(l.path(id, resultName))
	if err != nil {
		return res, fmt.Errorf("read result: %w", err)
	}
	if err := json.Unmarshal(data, &res); err != nil {
		return res, fmt.Errorf("read result: %w", err)
	}
	return res, res.Validate()
}

// finish announces the outcome of a build until that succeeds or ctx is done,
// and then forgets the build.
func (l *Launcher) finish(ctx context.Context, b *build) {
	id := b.Request.BuildID
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		res, err := l.cfg.Finish(ctx, id, *b.Outcome)
		if errors.Is(err, fs.ErrNotExist) {
			l.cfg.Log.Error("nobody asked for this build: its outcome is kept here only", "build", id, "err", err)
			res, err = *b.Outcome, nil
		}
		if err == nil {
			if err = l.settle(b, res); err == nil {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		l.cfg.Log.Warn("finish build; trying again", "build", id, "err", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// settle notes the announced outcome and ends the build's life here.
func (l *Launcher) settle(b *build, res events.Result) error {
	id := b.Request.BuildID
	data, err := json.Marshal(outcome{Attempt: b.Request.Attempt, Result: res})
	if err != nil {
		return fmt.Errorf("note outcome of build %s: %w", id, err)
	}
	if err := os.MkdirAll(l.path(id), 0o700); err != nil {
		return fmt.Errorf("note outcome of build %s: %w", id, err)
	}
	if err := durable.WriteFile(l.path(id, outcomeName), data, 0o600); err != nil {
		return err
	}
	if err := durable.Remove(l.livePath(id)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.builds, id)
	b.tell()
	l.poke()
	return nil
}

// removeWork removes a build's work directory. RUN may have left directories
// without permissions.
func (l *Launcher) removeWork(id string) {
	dir := l.path(id, workName)
	err := os.RemoveAll(dir)
	if errors.Is(err, fs.ErrPermission) {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(path, 0o700) // best effort: RemoveAll says what stayed
			}
			return nil
		})
		err = os.RemoveAll(dir)
	}
	if err != nil {
		l.cfg.Log.Warn("remove work directory", "build", id, "err", err)
	}
}
