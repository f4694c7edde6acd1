package fake

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// world is what has been made so far, one thing a line of a file, since
// Terraform starts the provider anew for every walk. Without a file nothing is
// remembered and nothing is asked for.
type world struct {
	file string
	mu   sync.Mutex
}

// make adds a thing that must not be there and whose needs must be.
func (w *world) make(thing string, needs []need) error {
	if w == nil || w.file == "" {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	things, err := w.things()
	if err != nil {
		return err
	}
	if slices.Contains(things, thing) {
		return fmt.Errorf("already exists: %s", thing)
	}
	for _, n := range needs {
		if !slices.ContainsFunc(things, n.met) {
			return fmt.Errorf("%s needs %s first: %s", thing, n.thing, n.why)
		}
	}
	return w.write(append(things, thing))
}

// remove takes a thing away; one that is not there is no error.
func (w *world) remove(thing string) error {
	if w == nil || w.file == "" {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	things, err := w.things()
	if err != nil {
		return err
	}
	return w.write(slices.DeleteFunc(things, func(s string) bool { return s == thing }))
}

func (w *world) things() ([]string, error) {
	data, err := os.ReadFile(filepath.Clean(w.file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read what was made: %w", err)
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' }), nil
}

func (w *world) write(things []string) error {
	if err := os.WriteFile(w.file, []byte(strings.Join(things, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("write what was made: %w", err)
	}
	return nil
}
