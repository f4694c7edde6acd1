// Package screen is a terminal for tests: what a program writes to it is drawn
// by an emulator, and can be read as a person would.
package screen

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
)

// Screen is a terminal. It is safe for concurrent use.
type Screen struct {
	mu            sync.Mutex
	emulator      *vt.Emulator
	columns, rows int
	raw           bool // what is written has carriage returns already
}

// New returns an empty terminal. The end of a line moves to the beginning of the
// next, as on a terminal in its usual mode.
func New(columns, rows int) *Screen {
	return &Screen{emulator: vt.NewEmulator(columns, rows), columns: columns, rows: rows}
}

// Write draws p.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.raw {
		p2 := bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))
		_, err := s.emulator.Write(p2)
		return len(p), err
	}
	return s.emulator.Write(p)
}

// Size is the number of columns and rows.
func (s *Screen) Size() (columns, rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.columns, s.rows
}

// Resize changes the size. Lines are not wrapped anew, but cut.
func (s *Screen) Resize(columns, rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.columns, s.rows = columns, rows
	s.emulator.Resize(columns, rows)
}

// CursorHidden reports whether the cursor cannot be seen.
func (s *Screen) CursorHidden() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.emulator.CursorHidden()
}

// Text is what was on the screen and has scrolled off its top, and what is on it,
// without colours, spaces at the ends of lines and empty lines at the end.
func (s *Screen) Text() string { return s.text(uv.Line.String) }

// Colored is Text with colours, as sequences whose escape is written ␛.
func (s *Screen) Colored() string {
	return strings.ReplaceAll(s.text(uv.Line.Render), "\x1b", "␛")
}

func (s *Screen) text(show func(uv.Line) string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for _, l := range s.emulator.Scrollback().Lines() {
		lines = append(lines, strings.TrimRight(show(l), " "))
	}
	for y := range s.rows {
		line := make(uv.Line, 0, s.columns)
		for x := range s.columns {
			if c := s.emulator.CellAt(x, y); c != nil {
				line = append(line, *c)
			}
		}
		lines = append(lines, strings.TrimRight(show(line), " "))
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return strings.Join(lines, "\n") + "\n"
}

// Program is a program that runs on a terminal.
type Program struct {
	*Screen
	cmd  *exec.Cmd
	tty  *os.File
	done chan struct{}
	err  error
}

// Start runs cmd on a terminal of its own, which is all its standard streams
// that are not set. The program is killed when the test ends.
func Start(t testing.TB, cmd *exec.Cmd, columns, rows int) *Program {
	t.Helper()
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: uint16(columns), Rows: uint16(rows)})
	if err != nil {
		t.Fatalf("start %s on a terminal: %v", cmd.Path, err)
	}
	p := &Program{Screen: New(columns, rows), cmd: cmd, tty: tty, done: make(chan struct{})}
	p.raw = true
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = io.Copy(tty, p.emulator) // what a terminal answers when it is asked
	}()
	go func() {
		defer close(p.done)
		_, _ = io.Copy(p, tty) // ends with EIO when the last writer is gone
		p.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if answers, ok := p.emulator.InputPipe().(io.Closer); ok { // Close may not be called while Read waits
			_ = answers.Close()
			<-answered
		}
		_ = tty.Close()
	})
	return p
}

// Type sends keys.
func (p *Program) Type(keys string) error {
	_, err := io.WriteString(p.tty, keys)
	return err
}

// Wait waits until the program has ended, at most for d, and returns its exit
// status.
func (p *Program) Wait(d time.Duration) (int, error) {
	select {
	case <-p.done:
	case <-time.After(d):
		return 0, fmt.Errorf("%s has not ended after %s; it shows\n%s", p.cmd.Path, d, p.Text())
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, p.err
}

// Shows waits until the text of the screen matches a regular expression, at most
// for d and not longer than the program runs.
func (p *Program) Shows(pattern string, d time.Duration) error {
	want, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		over := time.Now().After(end)
		select {
		case <-p.done:
			over = true
		default:
		}
		if want.MatchString(p.Text()) {
			return nil
		}
		if over {
			return fmt.Errorf("%q was not shown, but in the end\n%s", pattern, p.Text())
		}
	}
}

// ResizeTo changes the size of the terminal, and tells the program.
func (p *Program) ResizeTo(columns, rows int) error {
	p.Resize(columns, rows)
	return pty.Setsize(p.tty, &pty.Winsize{Cols: uint16(columns), Rows: uint16(rows)})
}
