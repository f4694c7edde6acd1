package show

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/kilnhook/kiln/e2e/screen"
	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/executor/view"
	"github.com/kilnhook/kiln/infra/local/api"
)

func clock() time.Time { return time.Unix(1_700_000_000, 0) }

// A bar stands below the lines, which take its place; a log takes it too. Without
// a terminal there are only lines.
func TestScreen(t *testing.T) {
	play := func(s *Screen) {
		s.Line("sending")
		s.Bar("bytes", 50, 100)
		l, err := NewLog(s, "plain")
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			`{"time":"2026-01-02T03:04:05Z","kind":"step","id":"1","name":"FROM x","state":"started"}`,
			`{"time":"2026-01-02T03:04:05Z","kind":"output","id":"1","text":"\u001b[31mred\u001b[2J"}`,
			`{"time":"2026-01-02T03:04:06Z","kind":"step","id":"1","state":"done","ms":1000}`,
			"no JSON\x1b[H",
		} {
			if err := l.Add([]byte(line)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(l.Close(), s.Err()); err != nil {
			t.Fatal(err)
		}
	}
	tty := screen.New(60, 24)
	play(New(tty, Terminal{Size: tty.Size, Abilities: view.Abilities{Color: true}}, func() time.Time { return time.Date(2026, 1, 2, 3, 4, 7, 0, time.UTC) }))
	want := "sending\n   0.00 #1 FROM x\n   0.00 #1 red\n   1.00 #1 DONE 1.0s\n   2.00 note: no JSON\n"
	if got := tty.Text(); got != want {
		t.Errorf("on a terminal:\n%s", got)
	}
	var plain bytes.Buffer
	play(New(&plain, Terminal{}, func() time.Time { return time.Date(2026, 1, 2, 3, 4, 7, 0, time.UTC) }))
	if got := plain.String(); got != want {
		t.Errorf("without a terminal:\n%q", got)
	}
	tty = screen.New(60, 24)
	New(tty, Terminal{Size: tty.Size}, clock).Bar("bytes", 50, 100)
	if got := tty.Text(); got != "bytes ████████████░░░░░░░░░░░░ 50 B of 100 B\n" {
		t.Errorf("a bar is\n%s", got)
	}
	if _, err := NewLog(New(&plain, Terminal{}, clock), "fancy"); err == nil {
		t.Error("a log in the mode fancy")
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
			Result: &events.Result{Outcome: "success", Digest: "sha256:" + strings.Repeat("0", 64), StartedAt: at, FinishedAt: at.Add(2 * time.Second),
				Platforms: []events.PlatformInfo{{OS: "linux", Arch: "arm", Variant: "v7", Digest: "sha256:" + strings.Repeat("7", 64)}}}},
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
	s := New(&text, Terminal{}, clock)
	Verdict(s, builds[1])
	Verdict(s, api.Build{ID: "x", Result: &events.Result{Outcome: "failed", Class: "build", Message: "a\n\x1b[31mb"}})
	if got := text.String(); !strings.Contains(got, "success in 2.0s\nr/app@sha256:000") || !strings.Contains(got, "\n  linux/arm/v7 sha256:777") || !strings.Contains(got, "failed (build)\n  a\n  b\n") {
		t.Errorf("%s", got)
	}
}
