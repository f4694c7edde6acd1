package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

const (
	maxLine  = 64 << 10 // bytes of one log line; longer ones are cut into several
	maxWords = 600      // bytes kept of what an executor said last
)

// buildLog appends to a build's log: one JSON object of events.Progress a
// line. It never fails its writer: what cannot be written is dropped, and said
// so once it can be.
type buildLog struct {
	now      func() time.Time
	platform string // of the part whose executor it is; the log is that of the whole
	limit    int64  // bytes after which only notes and results are kept
	wake     func() // called after every append

	mu      sync.Mutex
	file    *os.File
	size    int64
	full    bool   // the disk was full
	clipped bool   // the limit was reached, and said so
	words   string // the last lines for people
}

// openLog opens the log for appending. A line that a crash cut off is ended. With
// a platform it is that of a build that others append to too.
func openLog(path, platform string, now func() time.Time, limit int64, wake func()) (*buildLog, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open build log: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open build log: %w", err), f.Close())
	}
	l := &buildLog{now: now, platform: platform, limit: limit, wake: wake, file: f, size: size}
	last := make([]byte, 1)
	if size > 0 {
		if _, err := f.ReadAt(last, size-1); err == nil && last[0] != '\n' {
			l.append([]byte("\n"))
		}
	}
	return l, nil
}

// note appends a line of our own for people.
func (l *buildLog) note(format string, args ...any) {
	l.line(events.Progress{Kind: events.ProgressNote, Text: fmt.Sprintf(format, args...)})
}

func (l *buildLog) line(p events.Progress) {
	p.Time = l.now().UTC()
	buildlog.Mark(&p, l.platform)
	data, err := json.Marshal(p)
	if err != nil {
		return // a struct of plain fields: cannot happen
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.append(append(data, '\n'))
	l.wake()
}

// append writes whole lines. The caller holds mu.
func (l *buildLog) append(data []byte) {
	n, err := l.file.Write(data)
	l.size += int64(n)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		l.full = true
		if n > 0 && l.platform == "" { // no half lines
			if l.file.Truncate(l.size-int64(n)) == nil {
				l.size -= int64(n)
			}
		}
	}
}

// take keeps one line that the executor printed. Lines that are not progress
// objects, such as a crash's trace, become notes.
func (l *buildLog) take(line []byte) {
	line = bytes.TrimRight(line, "\r\n")
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	var p events.Progress
	if line[0] != '{' || json.Unmarshal(line, &p) != nil || p.Kind == "" {
		p = events.Progress{Kind: events.ProgressNote, Text: strings.ToValidUTF8(string(line), "\uFFFD")}
		l.remember(p.Text)
		l.line(p)
		return
	}
	switch {
	case p.Error != "":
		l.remember(p.Error)
	case p.Kind == events.ProgressNote, p.Kind == events.ProgressOutput:
		l.remember(p.Text)
	}
	bulky := p.Kind == events.ProgressOutput || p.Kind == events.ProgressBytes
	if l.platform != "" {
		buildlog.Mark(&p, l.platform)
		data, err := json.Marshal(p)
		if err != nil {
			return // a struct of plain fields: cannot happen
		}
		line = data
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if bulky && l.size > l.limit {
		if !l.clipped {
			l.clipped = true
			text := fmt.Sprintf("the log is longer than %d MiB; further output is left out", l.limit>>20)
			if data, err := json.Marshal(events.Progress{Time: l.now().UTC(), Kind: events.ProgressNote, Text: text}); err == nil {
				l.append(append(data, '\n'))
			}
		}
		return
	}
	l.append(append(line[:len(line):len(line)], '\n'))
	l.wake()
}

func (l *buildLog) remember(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	words := l.words + "\n" + text
	if len(words) > maxWords {
		words = strings.ToValidUTF8(words[len(words)-maxWords:], "")
	}
	l.words = words
}

// lastWords are the last lines for people on one line.
func (l *buildLog) lastWords() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(strings.FieldsFunc(l.words, func(r rune) bool { return r == '\n' }), " | ")
}

func (l *buildLog) diskFull() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full
}

// close makes the log durable as far as the disk allows.
func (l *buildLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.file.Sync(), l.file.Close())
}

// lineWriter cuts what a process prints into lines.
type lineWriter struct {
	emit func(line []byte)
	buf  []byte
}

// Write implements io.Writer; it never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.buf = append(w.buf, p...)
			if len(w.buf) >= maxLine {
				w.flush()
			}
			break
		}
		if len(w.buf) == 0 {
			w.emit(p[:i])
		} else {
			w.buf = append(w.buf, p[:i]...)
			w.flush()
		}
		p = p[i+1:]
	}
	return n, nil
}

// flush emits what stands after the last newline.
func (w *lineWriter) flush() {
	if len(w.buf) > 0 {
		w.emit(w.buf)
		w.buf = w.buf[:0]
	}
}

// Log emits the lines of a build's log from the byte offset on, several whole
// lines at a time, and returns the offset after the last. With follow it waits
// for more until the build has ended; without, it ends with the log. The error
// wraps fs.ErrNotExist if the build is not known here.
func (l *Launcher) Log(ctx context.Context, id string, offset int64, follow bool, emit func(lines []byte) error) (int64, error) {
	buf := make([]byte, 64<<10)
	for {
		live, changed := l.watch(id)
		f, err := os.Open(l.path(id, logName))
		switch {
		case err == nil:
			offset, err = buildlog.CopyLines(f, offset, &buf, emit)
			if err = errors.Join(err, f.Close()); err != nil {
				return offset, fmt.Errorf("read log of build %s: %w", id, err)
			}
		case !live:
			return offset, fmt.Errorf("read log of build %s: %w", id, err)
		}
		if !follow || !live {
			return offset, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return offset, context.Cause(ctx)
		}
	}
}
