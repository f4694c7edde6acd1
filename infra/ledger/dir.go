package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tmpDir     = ".tmp"     // values on their way to a key
	journalDir = ".journal" // what was decided, and locks

	staleTmp = time.Hour // age at which a file in tmpDir belongs to nobody any more
)

// Dir is a store in a directory: a file for each key, and a journal. A write is
// durable when the call returns, by one sync of the journal, which all that write
// at the same time share; then it is made in the files, where readers see it. The
// files are put on disk from time to time, and the journal before that is
// removed. Whoever opens the directory first after a crash repeats what the
// journal holds.
//
// After a crash, or seen by another process, a key has its old value or its new
// one and never a part. Any number of goroutines and processes of one machine may
// use a directory at once; on a network filesystem it is only as good as that
// filesystem's locks.
type Dir struct {
	tree
	opts  DirOptions
	locks writers
	place *os.File // see place
	users *os.File // locked, shared, by every process that has the directory open

	mu      sync.Mutex
	queue   []*write // that nobody has begun with
	writing bool     // whether somebody works on the queue
	broken  error    // why nothing can be written any more

	current    *segment // of the writer
	background sync.WaitGroup
	tidying    sync.Mutex
}

// DirOptions of a store in a directory; the zero value works.
type DirOptions struct {
	// JournalBytes is the size at which the files are put on disk and the journal
	// begins anew; 0 is 32 MiB.
	JournalBytes int64
	// Step is told of every step of a write when it is done, for tests that end
	// the process there; nil tells nobody.
	Step func(Step)
}

// Step is a step of a write, or of what is done from time to time.
type Step string

// The steps, in their order.
const (
	StepWritten Step = "written" // the journal has it, in memory
	StepSynced  Step = "synced"  // the journal has it, on disk
	StepApplied Step = "applied" // one key has its new value
	StepNoted   Step = "noted"   // other processes know
	StepRotated Step = "rotated" // the journal goes on in a new file
	StepFlushed Step = "flushed" // all files are on disk
	StepTidied  Step = "tidied"  // the old file of the journal is gone
)

// OpenDir opens the store in a directory and makes the directory if it is not
// there. Close it when done.
func OpenDir(dir string) (*Dir, error) { return OpenDirWith(dir, DirOptions{}) }

// OpenDirWith is OpenDir with options.
func OpenDirWith(dir string, opts DirOptions) (*Dir, error) {
	if opts.JournalBytes <= 0 {
		opts.JournalBytes = 32 << 20
	}
	if opts.Step == nil {
		opts.Step = func(Step) {}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make ledger directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open ledger directory: %w", err)
	}
	d := &Dir{tree: tree{root: root}, opts: opts}
	if err := d.prepare(); err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", dir, errors.Join(err, d.Close()))
	}
	return d, nil
}

// prepare makes the store's own files, repeats what a crash left undone, and
// tidies up.
func (d *Dir) prepare() error {
	for _, name := range []string{tmpDir, journalDir} {
		if err := d.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for name, file := range map[string]**os.File{"turn": &d.locks.turn, "lock": &d.locks.work, "place": &d.place, "users": &d.users} {
		f, err := d.root.OpenFile(path.Join(journalDir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		*file = f
	}
	if err := d.join(); err != nil {
		return err
	}
	return d.sweepTmp()
}

// join enters this process among those that use the directory. The first repeats
// the whole journal: the machine may have been restarted since.
func (d *Dir) join() error {
	err := flock(d.users, unix.LOCK_EX|unix.LOCK_NB)
	alone := err == nil
	if !alone && !errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock directory: %w", err)
	}
	if alone {
		if err := d.locks.lock(); err != nil {
			return fmt.Errorf("lock journal: %w", err)
		}
		err = errors.Join(d.recover(), d.locks.unlock())
		if err != nil {
			return err
		}
	}
	if err := flock(d.users, unix.LOCK_SH); err != nil { // waits for one that repeats
		return fmt.Errorf("lock directory: %w", err)
	}
	return nil
}

// Close releases the directory. No other method may be running.
func (d *Dir) Close() error {
	d.background.Wait()
	errs := []error{d.root.Close()}
	for _, f := range []*os.File{d.locks.turn, d.locks.work, d.place, d.users} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if d.current != nil {
		errs = append(errs, d.current.file.Close())
	}
	return errors.Join(errs...)
}

// Get returns the value of a key and its version. The error wraps
// fs.ErrNotExist if there is none.
func (d *Dir) Get(ctx context.Context, key string) (data []byte, version string, err error) {
	if err := check(ctx, key, nil); err != nil {
		return nil, "", err
	}
	data, err = d.read(key)
	if err != nil {
		return nil, "", fmt.Errorf("read ledger key %s: %w", key, err)
	}
	return data, versionOf(data), nil
}

// Create gives a value to a key that has none and returns the version. The
// error wraps fs.ErrExist if the key has a value; of several that create at
// once exactly one succeeds.
func (d *Dir) Create(ctx context.Context, key string, data []byte) (version string, err error) {
	if err := check(ctx, key, data); err != nil {
		return "", err
	}
	err = d.write(ctx, entry{key: key, data: data}, "")
	if errors.Is(err, ErrConflict) {
		err = fs.ErrExist
	}
	if err != nil {
		return "", fmt.Errorf("create ledger key %s: %w", key, err)
	}
	return versionOf(data), nil
}

// Swap replaces the value of a key if its version is still the given one, and
// returns the new version; the error wraps ErrConflict if it is not. The
// version "" says that the key must have no value.
func (d *Dir) Swap(ctx context.Context, key, version string, data []byte) (newVersion string, err error) {
	if err := check(ctx, key, data); err != nil {
		return "", err
	}
	if err := d.write(ctx, entry{key: key, data: data}, version); err != nil {
		return "", fmt.Errorf("swap ledger key %s: %w", key, err)
	}
	return versionOf(data), nil
}

// Delete removes a key and its value. To delete what is not there is no error.
func (d *Dir) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key, nil); err != nil {
		return err
	}
	if err := d.write(ctx, entry{key: key, deleted: true}, ""); err != nil {
		return fmt.Errorf("delete ledger key %s: %w", key, err)
	}
	return nil
}

// check refuses a call whose context is over, or whose key or value is not
// allowed.
func check(ctx context.Context, key string, data []byte) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := CheckValue(key, data); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// isOwn reports whether a name in the store's directory is not a key's.
func isOwn(name string) bool { return strings.HasPrefix(name, ".") }
