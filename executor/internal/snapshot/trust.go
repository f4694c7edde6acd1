package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// devices knows of which file systems the ctime tells of every change. Of the
// others, tmpfs for one, content is read: a store into a mapping that was read
// before does not move the ctime there. That is measured, whatever the name of
// the file system. Only what was not opened, as far as that is certain, need not be read.
type devices struct {
	mu   sync.Mutex
	told map[uint32]trust // by the device of directories
}

// trust is what is known of the files in the directories of a device.
type trust struct {
	honest bool   // their ctimes tell everything
	opened bool   // if not: a watch of their directory tells when they are opened
	files  uint32 // device of those files: on an overlay not always that of the directories
}

// honest tells whether the ctimes of a file system tell everything. It is
// measured in dir, a directory on it, which is afterwards as it was.
func (d *devices) honest(ctx context.Context, dev uint32, dir string) (trust, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if told, known := d.told[dev]; known {
		return told, nil
	}
	var before unix.Stat_t
	if err := unix.Lstat(dir, &before); err != nil {
		return trust{}, fmt.Errorf("probe file system: %w", err)
	}
	told, err := probeMapping(ctx, dir)
	if errors.Is(err, unix.EROFS) {
		told, err = trust{honest: true, files: dev}, nil // nothing changes there
	}
	if err != nil {
		if ctx.Err() != nil {
			return trust{}, context.Cause(ctx)
		}
		told = trust{} // reading content is always right
	}
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, dir, []unix.Timespec{before.Atim, before.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	if d.told == nil {
		d.told = map[uint32]trust{}
	}
	d.told[dev] = told
	return told, nil
}

// trusted tells whether a device is known whose files' ctimes tell everything.
func (d *devices) trusted(files uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.told {
		if t.honest && t.files == files {
			return true
		}
	}
	return false
}

// probeMapping maps a file, reads it, lets the clock tick, stores, and looks
// whether the ctime has moved.
func probeMapping(ctx context.Context, dir string) (told trust, err error) {
	f, err := os.CreateTemp(dir, ".ctime-probe-*")
	if err != nil {
		return told, fmt.Errorf("probe file system: %w", err)
	}
	defer f.Close()
	defer os.Remove(f.Name())
	size := os.Getpagesize()
	if err := f.Truncate(int64(size)); err != nil {
		return told, fmt.Errorf("probe file system: %w", err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return told, fmt.Errorf("probe file system: %w", err)
	}
	stored := m[0] // read first
	var was, now unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &was); err == nil {
		err = tick(ctx, dir, was.Ctim.Nano())
	}
	m[0] = stored + 1
	if err := errors.Join(err, unix.Munmap(m)); err != nil {
		return told, fmt.Errorf("probe file system: %w", err)
	}
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return told, fmt.Errorf("probe file system: %w", err)
	}
	told = trust{honest: now.Ctim.Nano() != was.Ctim.Nano(), files: uint32(now.Dev)} //nolint:gosec // 12 and 20 bits
	if !told.honest {
		told.opened, err = probeWatch(dir, f)
	}
	return told, err
}

// tick waits until the clock of the file system of dir is past a time.
func tick(ctx context.Context, dir string, past int64) error {
	f, err := os.CreateTemp(dir, ".ctime-probe-*")
	if err != nil {
		return fmt.Errorf("probe the filesystem's clock: %w", err)
	}
	defer f.Close()
	defer os.Remove(f.Name())
	for {
		var st unix.Stat_t
		_, err := f.WriteAt([]byte{0}, 0)
		if err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		if err != nil {
			return fmt.Errorf("probe the filesystem's clock: %w", err)
		}
		if st.Ctim.Nano() > past {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

// dirPath is where a directory of the tree is.
func (w *Walk) dirPath(name string) string { return filepath.Join(w.root.Path(), name) }
