package show

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/api"
)

func clock() time.Time { return time.Unix(1_700_000_000, 0) }

// On a terminal there is a bar below the lines, which lines replace; otherwise
// there are only lines.
func TestLog(t *testing.T) {
	lines := []string{
		`{"time":"2026-01-02T03:04:05Z","kind":"step","id":"1","name":"FROM x","state":"started"}`,
		`{"time":"2026-01-02T03:04:05Z","kind":"bytes","id":"1","current":50,"total":100}`,
		`{"time":"2026-01-02T03:04:06Z","kind":"step","id":"1","state":"done","ms":1000}`,
	}
	for name, tc := range map[string]struct {
		width func() int
		want  string
	}{
		"terminal": {func() int { return 60 }, "#1 FROM x\n\r\x1b[K#1 FROM x ████████████░░░░░░░░░░░░ 50 B of 100 B\r\x1b[K#1 done 1.0s\n"},
		"plain":    {nil, "#1 FROM x\n#1 done 1.0s\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			l := NewLog(New(&out, tc.width, clock))
			for _, line := range lines {
				if err := l.Add([]byte(line)); err != nil {
					t.Fatal(err)
				}
			}
			if out.String() != tc.want {
				t.Errorf("%q, want %q", out.String(), tc.want)
			}
		})
	}
}

// A bar never wraps, however narrow the terminal.
func TestBarWidth(t *testing.T) {
	for _, width := range []int{1, 5, 20, 40, 80, 200} {
		for _, total := range []int64{0, 1, 1 << 40} {
			if got := bar(strings.Repeat("name", 50), 12345, total, width); utf8.RuneCountInString(got) > max(width-1, 1) {
				t.Errorf("width %d: %d characters", width, utf8.RuneCountInString(got))
			}
		}
	}
}

// The table has a line per build, whatever state it is in.
func TestBuilds(t *testing.T) {
	change := events.Change{Kind: events.KindGit, Location: "localhost/app", Name: "refs/heads/größe", After: strings.Repeat("a", 40)}
	at := clock().Add(-time.Minute)
	builds := []api.Build{
		{ID: "b4fqlqs6nuner3bfunf5738b7r", State: api.StateQueued, Position: 3, Request: events.Request{Change: change, RequestedAt: at}},
		{ID: "o9279ihk7gifcp87vrmnsrj2b4", State: api.StateFinished, Request: events.Request{Image: "r/app", Change: change, RequestedAt: at},
			Result: &events.Result{Outcome: "success", Digest: "sha256:" + strings.Repeat("0", 64), StartedAt: at, FinishedAt: at.Add(2 * time.Second)}},
	}
	var out bytes.Buffer
	if err := Builds(&out, builds, clock()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"b4fqlqs6nu  queued #3", "localhost/app größe aaaaaaaaaa", "r/app@sha256:000000000000", "2.0s", "1 min ago"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	var text bytes.Buffer
	s := New(&text, nil, clock)
	Verdict(s, builds[1])
	Verdict(s, api.Build{ID: "x", Result: &events.Result{Outcome: "failed", Class: "build", Message: "a\n\x1b[31mb"}})
	if got := text.String(); !strings.Contains(got, "success in 2.0s\nr/app@sha256:000") || !strings.Contains(got, "failed (build)\n  a\n  b\n") {
		t.Errorf("%s", got)
	}
}
