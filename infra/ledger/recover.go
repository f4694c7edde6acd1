package ledger

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// recover makes in the tree all that the journal says and the tree is not. The
// caller holds the writers' lock. What a crash left unfinished at the end of the
// journal is cut off; it was never acknowledged.
func (d *Dir) recover() error {
	files, err := openSegments(d.root)
	if err != nil {
		return err
	}
	defer closeSegments(files)
	var all []entry
	at := place{}
	for i, s := range files {
		entries, end, clean, err := s.read(int64(journalHeader))
		if err == nil && i < len(files)-1 && end < files[i+1].before {
			err = fmt.Errorf("journal %s is damaged at byte %d of %d: restore the ledger from a copy, or move the directory %s away to go on with what the files hold", segmentName(s.number), end, files[i+1].before, journalDir)
		}
		if err == nil && !clean {
			err = s.file.Truncate(end)
		}
		if err := errors.Join(err, s.sync()); err != nil {
			return err
		}
		all, at = append(all, entries...), place{segment: s.number, offset: end}
	}
	if len(files) == 0 {
		return d.begin(1, 0)
	}
	if err := d.repeat(all); err != nil {
		return err
	}
	if err := at.write(d.place); err != nil {
		return err
	}
	d.checkpoint(at.segment)
	return nil
}

// repeat makes in the tree what the journal says and is not so yet. Readers never
// see a value that was replaced come back.
func (d *Dir) repeat(entries []entry) error {
	var missing []entry
	for _, e := range last(entries) {
		same, err := d.is(e)
		if err != nil {
			return fmt.Errorf("read value of %s: %w", e.key, err)
		}
		if !same {
			missing = append(missing, e)
		}
	}
	return d.applyAll(missing)
}

// begin goes on in a new file of the journal. The one before is whole up to an
// offset.
func (d *Dir) begin(number uint64, before int64) error {
	s, err := createSegment(d.root, number, before)
	if err != nil {
		return err
	}
	if err := (place{segment: number, offset: int64(journalHeader)}).write(d.place); err != nil {
		s.file.Close()
		return err
	}
	if d.current != nil {
		d.current.file.Close()
	}
	d.current = s
	return nil
}

// catchUp learns where the journal ends, and does what a process that was killed
// in the middle of a write left undone. The caller holds the writers' lock.
func (d *Dir) catchUp() (place, error) {
	at, err := readPlace(d.place)
	if err != nil {
		return place{}, err
	}
	if d.current == nil || d.current.number != at.segment {
		s, err := openSegment(d.root, at.segment)
		if err != nil {
			return place{}, err
		}
		if d.current != nil {
			d.current.file.Close()
		}
		d.current = s
	}
	empty, err := d.current.empty(at.offset)
	if err != nil || empty {
		return at, err
	}
	entries, end, clean, err := d.current.read(at.offset)
	if err != nil {
		return place{}, err
	}
	if !clean {
		if err := d.current.file.Truncate(end); err != nil {
			return place{}, fmt.Errorf("cut journal: %w", err)
		}
	}
	if err := d.sync(at.offset); err != nil {
		return place{}, err
	}
	if err := d.repeat(entries); err != nil {
		return place{}, err
	}
	at.offset = end
	return at, at.write(d.place)
}

// rotate goes on in a new file, the one until now being whole up to its end, so that the old ones can be removed once the
// tree is on disk. If it cannot, the next write tries again. The caller holds the
// writers' lock.
func (d *Dir) rotate(end int64) {
	if d.begin(d.current.number+1, end) != nil {
		return
	}
	d.opts.Step(StepRotated)
	d.checkpoint(d.current.number)
}

// checkpoint puts the tree on disk, in the background, and removes the files of
// the journal below a number, all of which is in the tree. What fails is done by
// the next.
func (d *Dir) checkpoint(below uint64) {
	d.background.Go(func() {
		d.tidying.Lock()
		defer d.tidying.Unlock()
		numbers, err := segments(d.root)
		if err != nil || len(numbers) == 0 || numbers[0] >= below {
			return
		}
		dir, err := d.root.Open(".")
		if err != nil {
			return
		}
		defer dir.Close()
		if unix.Syncfs(int(dir.Fd())) != nil {
			return
		}
		d.opts.Step(StepFlushed)
		for _, number := range numbers {
			if number >= below {
				break
			}
			if err := d.root.Remove(segmentName(number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return
			}
		}
		d.opts.Step(StepTidied)
	})
}
