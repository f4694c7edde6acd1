package show

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/kilnhook/kiln/executor/view"
)

// Log shows what a build says as it comes, as the executor itself does.
type Log struct {
	screen *Screen
	view   view.Renderer
}

// NewLog returns a Log on a screen, which is the log's until Close. mode is one
// of view.Modes.
func NewLog(s *Screen, mode string) (*Log, error) {
	v, err := view.New(writer{s}, view.Options{Mode: mode, Size: s.term.Size, Now: s.now, Abilities: s.term.Abilities})
	if err != nil {
		return nil, err
	}
	return &Log{screen: s, view: v}, nil
}

// Add shows one line of the log. What is no progress is a note.
func (l *Log) Add(line []byte) error {
	var e view.Event
	if err := json.Unmarshal(line, &e); err != nil || e.Kind == "" {
		e = view.Event{Time: l.screen.now(), Kind: "note", Text: strings.TrimSpace(string(line))}
	}
	l.view.Event(e)
	return l.screen.Err()
}

// Close gives the screen back.
func (l *Log) Close() error { return errors.Join(l.view.Close(), l.screen.Err()) }

// writer is a screen for a view.
type writer struct{ s *Screen }

func (w writer) Write(p []byte) (int, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.clear()
	w.s.write(string(p))
	if w.s.err != nil {
		return 0, w.s.err
	}
	return len(p), nil
}
