package build

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/executor/internal/sandbox"
)

// What a process said on standard error is among its last lines, also if all of
// standard output was read after it.
func TestTail(t *testing.T) {
	last := &tail{}
	add := func(stream int, text string) {
		last.mu.Lock()
		defer last.mu.Unlock()
		last.add(stream, text)
	}
	for i := range 8 {
		add(2, fmt.Sprintf("e%d", i))
	}
	for i := range 30 {
		add(1, fmt.Sprintf("o%d", i))
	}
	if got := strings.Join(last.last(), " "); got != "e3 e4 e5 e6 e7 o25 o26 o27 o28 o29" {
		t.Errorf("the last lines are %s", got)
	}
	for i := range 20 {
		add(2, fmt.Sprintf("f%d", i))
	}
	if got := strings.Join(last.last(), " "); !strings.HasSuffix(got, " f18 f19") || len(last.last()) != tailLines {
		t.Errorf("the last lines are %s", got)
	}
}

func TestMeantJSON(t *testing.T) {
	missing := &sandbox.ExitError{Code: 127}
	for _, c := range []struct {
		text string
		exit *sandbox.ExitError
		hint bool
	}{
		{`["sh", "-c", "true"`, missing, true},
		{` ['sh', '-c', 'true']`, missing, true},
		{`[ -e /x ] && nosuch`, missing, false},
		{`nosuch`, missing, false},
		{`["sh"`, &sandbox.ExitError{Code: 1}, false},
	} {
		err := meantJSON([]string{"/bin/sh", "-c", c.text}, c.exit, c.exit)
		if !errors.Is(err, c.exit) || strings.Contains(err.Error(), "is not JSON") != c.hint {
			t.Errorf("%s: %v", c.text, err)
		}
	}
	if err := meantJSON([]string{`["x"`}, missing, missing); strings.Contains(err.Error(), "JSON") {
		t.Errorf("a program of that name: %v", err)
	}
}
