package podlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// maxLine is how many bytes of one line are kept.
const maxLine = 256 << 10

// lineReader cuts a log into lines of bounded length.
type lineReader struct{ in *bufio.Reader }

func newLineReader(r io.Reader) lineReader { return lineReader{bufio.NewReaderSize(r, 32<<10)} }

// next returns the next line without its end, the beginning of one that is longer than
// maxLine. ended says that there was an end. With the last line comes io.EOF.
func (l lineReader) next() (line []byte, ended bool, err error) {
	for {
		part, err := l.in.ReadSlice('\n')
		if room := maxLine - len(line); len(part) > room && room >= 0 {
			line = append(line, part[:room]...)
		} else if room > 0 {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		ended = err == nil
		return bytes.TrimRight(line, "\r\n"), ended, err
	}
}

// stamped splits a line into the time that the node gave it and the rest.
func stamped(line []byte) (time.Time, []byte) {
	stamp, rest, _ := bytes.Cut(line, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return time.Time{}, line
	}
	return at.UTC(), rest
}

// tapeError is that a tape could not be written.
type tapeError struct{ err error }

func (e *tapeError) Error() string { return e.err.Error() }
func (e *tapeError) Unwrap() error { return e.err }

// writer turns what a container prints into the lines of a tape, in a way that depends
// on nothing else: read again it gives the same tape.
type writer struct {
	t     *tape
	limit int64 // bytes beyond which output is left out
	told  bool  // that it is
}

// note writes a line of our own.
func (w *writer) note(at time.Time, text string) error {
	p := events.Progress{Time: at.UTC(), Kind: events.ProgressNote, Text: text}
	buildlog.Mark(&p, w.t.platform)
	return w.write(p)
}

// take writes what a container printed at a time.
func (w *writer) take(at time.Time, line []byte) error {
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	var p events.Progress
	plain := line[0] != '{' || json.Unmarshal(line, &p) != nil || p.Kind == ""
	if plain {
		p = events.Progress{Time: at, Kind: events.ProgressNote, Text: strings.ToValidUTF8(string(line), "\uFFFD")}
	}
	bulky := plain || p.Kind == events.ProgressOutput || p.Kind == events.ProgressBytes
	if w.t.size > w.limit && (bulky || w.t.size > w.limit*3/2) {
		if w.told {
			return nil
		}
		w.told = true
		return w.note(at, fmt.Sprintf("the log is longer than %d MiB; further output is left out", w.limit>>20))
	}
	if plain || w.t.platform != "" {
		buildlog.Mark(&p, w.t.platform)
		return w.write(p)
	}
	return w.append(line)
}

func (w *writer) write(p events.Progress) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return w.append(data)
}

func (w *writer) append(line []byte) error {
	if err := w.t.append(append(bytes.Clone(line), '\n')); err != nil {
		return &tapeError{err}
	}
	return nil
}
