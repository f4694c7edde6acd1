package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxBatch is how many bytes of values are written with one sync, but for the
// first.
const maxBatch = 4 << 20

// write is a change of a key that waits to be made.
type write struct {
	entry
	version string        // that the value must have; "": there must be none, unless it is deleted
	taken   atomic.Bool   // by the writer, or by the caller who does not wait any more
	done    chan struct{} // closed when err is known
	err     error
}

// write makes a change and returns when it is durable. The error is ErrConflict
// if the value is not as it must be. A context that ends while the change is
// being written does not stop it.
func (d *Dir) write(ctx context.Context, e entry, version string) error {
	if !e.deleted && version == "" {
		if there, err := d.has(e.key); err != nil || there {
			return errors.Join(err, conflictIf(there)) // what is seen is durable
		}
	}
	w := &write{entry: e, version: version, done: make(chan struct{})}
	d.mu.Lock()
	d.queue = append(d.queue, w)
	if !d.writing {
		d.writing = true
		d.background.Go(d.work)
	}
	d.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		if w.taken.CompareAndSwap(false, true) {
			return fmt.Errorf("wait for the journal: %w", context.Cause(ctx))
		}
		<-w.done
	}
	return w.err
}

func conflictIf(conflict bool) error {
	if conflict {
		return ErrConflict
	}
	return nil
}

// work makes what is queued, as much at a time as there is, until nothing is.
func (d *Dir) work() {
	for {
		d.round()
		d.mu.Lock()
		if len(d.queue) == 0 {
			d.writing = false
			d.mu.Unlock()
			return
		}
		d.mu.Unlock()
	}
}

// round makes one batch of changes, those that are queued once it is this
// process's turn.
func (d *Dir) round() {
	err := d.locks.lock()
	d.mu.Lock()
	batch := d.take()
	if err == nil {
		err = d.broken
	}
	d.mu.Unlock()
	if err == nil {
		err = d.commit(batch)
	}
	err = errors.Join(err, d.locks.unlock())
	for _, w := range batch {
		if w.err == nil {
			w.err = err
		}
		close(w.done)
	}
}

// take removes from the queue what can be written together: no key of it stands
// below another, and it is not too much. The caller holds mu.
func (d *Dir) take() []*write {
	var batch []*write
	keys, dirs := map[string]bool{}, map[string]bool{}
	size := 0
	for i, w := range d.queue {
		below := dirs[w.key]
		for dir := path.Dir(w.key); dir != "." && !below; dir = path.Dir(dir) {
			below = keys[dir]
		}
		if below || size > maxBatch {
			d.queue = d.queue[i:]
			return batch
		}
		if !w.taken.CompareAndSwap(false, true) {
			continue // its caller has left
		}
		batch = append(batch, w)
		size += len(w.data)
		keys[w.key] = true
		for dir := path.Dir(w.key); dir != "." && !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
		}
	}
	d.queue = nil
	return batch
}

// commit decides on changes and makes them. The caller holds the writers' lock.
// The error says what is wrong with the store; what is wrong with one change is
// its own.
func (d *Dir) commit(batch []*write) error {
	at, err := d.catchUp()
	if err != nil {
		return err
	}
	entries := d.decide(batch)
	if len(entries) == 0 {
		return nil
	}
	var records []byte
	for _, e := range entries {
		records = d.current.salt.appendRecord(records, at.offset+int64(len(records)), e)
	}
	end := at.offset + int64(len(records))
	if err := d.current.write(records, at.offset); err != nil {
		return err
	}
	d.opts.Step(StepWritten)
	if err := d.sync(at.offset); err != nil {
		return err
	}
	if err := d.applyAll(last(entries)); err != nil {
		return err
	}
	at.offset = end
	if err := at.write(d.place); err != nil {
		return err
	}
	d.opts.Step(StepNoted)
	if end >= d.opts.JournalBytes {
		d.rotate(end)
	}
	return nil
}

// sync puts the journal on disk. If that fails nobody knows what is there: the
// kernel may have thrown pages away, and a second try would succeed and mean
// nothing. What was written from an offset on is then taken back, and nothing is
// written any more.
func (d *Dir) sync(from int64) error {
	err := d.current.sync()
	if err == nil {
		d.opts.Step(StepSynced)
		return nil
	}
	err = fmt.Errorf("synchronise journal, which must be opened anew: %w", errors.Join(err, d.current.file.Truncate(from)))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = err
	return err
}

// decide returns the changes that may be made and gives the others their error.
func (d *Dir) decide(batch []*write) []entry {
	now := map[string]entry{} // what the ones before make of keys
	entries := make([]entry, 0, len(batch))
	for _, w := range batch {
		before, decided := now[w.key]
		there := decided && !before.deleted
		if !decided {
			there, w.err = d.has(w.key)
		}
		if errors.Is(w.err, unix.ENOTDIR) && (w.deleted || w.version != "") {
			there, w.err = false, nil
		}
		switch {
		case w.err != nil:
		case w.deleted && !there:
			continue
		case w.deleted:
		case w.version == "":
			w.err = conflictIf(there)
		default:
			w.err = d.versionIs(w, before, decided)
		}
		if w.err == nil {
			entries = append(entries, w.entry)
			now[w.key] = w.entry
		}
	}
	return entries
}

// versionIs returns ErrConflict if the value of a key is not the one that a
// change is to replace. Before is what an earlier change made of it, if one did.
func (d *Dir) versionIs(w *write, before entry, decided bool) error {
	data := before.data
	if !decided {
		var err error
		data, err = d.read(w.key)
		if errors.Is(err, fs.ErrNotExist) {
			return ErrConflict
		}
		if err != nil {
			return err
		}
	}
	return conflictIf(before.deleted || versionOf(data) != w.version)
}

// applyAll makes in the tree what the journal says.
func (d *Dir) applyAll(entries []entry) error {
	for _, e := range entries {
		if err := d.apply(e); err != nil {
			return fmt.Errorf("write value of %s: %w", e.key, err)
		}
		d.opts.Step(StepApplied)
	}
	return nil
}
