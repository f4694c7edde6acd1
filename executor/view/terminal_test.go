package view

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnhook/kiln/e2e/golden"
	"github.com/kilnhook/kiln/e2e/screen"
	"github.com/kilnhook/kiln/executor/internal/progress"
)

// film is a live view on a terminal, and pictures of it.
type film struct {
	t      *testing.T
	screen *screen.Screen
	view   Renderer
	shots  strings.Builder
}

func newFilm(t *testing.T, columns, rows int, color bool) *film {
	t.Helper()
	scr := screen.New(columns, rows)
	r, err := New(scr, Options{Mode: "tty", Now: time.Now, Size: scr.Size, Abilities: Abilities{Color: color}})
	if err != nil {
		t.Fatal(err)
	}
	return &film{t: t, screen: scr, view: r}
}

func (f *film) send(events ...Event) {
	for _, e := range events {
		e.Time = time.Now()
		f.view.Event(e)
	}
}

func (f *film) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// shot notes what is on the screen.
func (f *film) shot(name string, color bool) {
	text := f.screen.Text()
	if color {
		text = f.screen.Colored()
	}
	fmt.Fprintf(&f.shots, "-- %s --\n%s", name, text)
}

func started(id, name string, p progress.Phase) Event {
	return Event{Kind: progress.KindStep, ID: id, Name: name, Phase: p, State: progress.StateStarted}
}

func done(id, name string, p progress.Phase, ms int64) Event {
	return Event{Kind: progress.KindStep, ID: id, Name: name, Phase: p, State: progress.StateDone, MS: ms, Cache: progress.CacheMiss, Reason: "no entry"}
}

func printed(id, text string) Event { return Event{Kind: progress.KindOutput, ID: id, Text: text} }

func sized(id, name string, size int64, files int) Event {
	e := Event{Kind: progress.KindLayer, ID: id, Name: name, Layer: &progress.Layer{Digest: "sha256:" + id, Size: size}}
	if files > 0 {
		e.Layer.Contents = &progress.Contents{Files: files}
	}
	return e
}

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// build plays a build of three stages, and takes pictures.
func (f *film) build(color bool) {
	const from, run, npm = "[builder 1/3] FROM docker.io/library/golang:1.26", "[builder 2/3] RUN go build -trimpath -o /app ./cmd/app && strip /app", "[ui 2/2] RUN npm ci"
	f.send(
		Event{Kind: progress.KindNote, Text: "isolation: overlay"},
		started("fetch", "load context ./app", progress.PhaseLoad),
		Event{Kind: progress.KindBytes, ID: "fetch", Name: "load context ./app", Phase: progress.PhaseLoad, Current: 1_200_000},
	)
	f.wait(time.Second)
	f.shot("loading", color)
	f.send(
		Event{Kind: progress.KindStep, ID: "fetch", Name: "load context ./app", Phase: progress.PhaseLoad, State: progress.StateDone, MS: 1000},
		started("1.0", from, progress.PhaseExtract),
		Event{Kind: progress.KindBytes, Name: "sha256:abc", Phase: progress.PhaseExtract, Current: 20_000_000, Total: 70_000_000},
		Event{Kind: progress.KindStep, ID: "2.0", Name: "[ui 1/2] COPY package.json .", Phase: progress.PhaseCopy, State: progress.StateCached, Cache: progress.CacheHit},
		started("2.1", npm, progress.PhaseRun),
		printed("2.1", "\x1b[32madded\x1b[0m 231 packages\x1b[2J\x1b[H in \x1b]0;title\x0714s"),
	)
	f.wait(2 * time.Second)
	f.shot("two stages", color)
	f.send(
		Event{Kind: progress.KindBytes, Name: "sha256:abc", Phase: progress.PhaseExtract, Current: 70_000_000, Total: 70_000_000},
		Event{Kind: progress.KindStep, ID: "1.0", Name: from, Phase: progress.PhaseExtract, State: progress.StateDone, MS: 2000},
		started("1.1", run, progress.PhaseRun),
	)
	for i := range 8 {
		f.send(printed("1.1", fmt.Sprintf("compiling package %d of github.com/example/app/internal/with/a/long/path/that/is/cut", i)))
	}
	f.send(done("2.1", npm, progress.PhaseRun, 3400), started("1.1", run, progress.PhaseSnapshot),
		Event{Kind: progress.KindBytes, ID: "2.1", Name: "push layer", Phase: progress.PhasePush, Current: 1_500_000, Total: 3_000_000},
		Event{Kind: progress.KindBytes, ID: "2.0", Name: "push layer", Phase: progress.PhasePush, Current: 500_000})
	f.wait(time.Second)
	f.shot("snapshot and push", color)
	f.send(done("1.1", run, progress.PhaseRun, 12_300),
		Event{Kind: progress.KindPhase, ID: "2.0", Phase: progress.PhasePush, State: progress.StateDone, MS: 900},
		Event{Kind: progress.KindBytes, ID: "2.1", Name: "push layer", Phase: progress.PhasePush, Current: 3_000_000, Total: 3_000_000})
	f.wait(time.Second)
	f.shot("nothing goes on", color)
	f.send(
		sized("1.0", from, 30_000_000, 0), sized("1.0", from, 40_000_000, 0), sized("2.0", "", 1200, 1), sized("1.1", run, 12_300_000, 417),
		Event{Kind: progress.KindPhase, ID: "1.0", Phase: progress.PhaseExtract, State: progress.StateDone, MS: 2000},
		Event{Kind: progress.KindPhase, ID: "1.1", Phase: progress.PhaseRun, State: progress.StateDone, MS: 11_000},
		Event{Kind: progress.KindPhase, ID: "2.1", Phase: progress.PhaseRun, State: progress.StateDone, MS: 3100},
		Event{Kind: progress.KindNote, Pos: "Dockerfile:3", Text: "mind the gap"},
		Event{Kind: progress.KindResult, State: progress.StateDone, Text: digest},
	)
	if err := f.view.Close(); err != nil {
		f.t.Error(err)
	}
	f.shot("closed", color)
	if f.screen.CursorHidden() {
		f.t.Error("the cursor is hidden after Close")
	}
}

// What a build looks like on terminals of two widths, with colours and without.
func TestLiveView(t *testing.T) {
	for _, tc := range []struct {
		columns, rows int
		color         bool
	}{{80, 24, false}, {80, 24, true}, {160, 50, false}, {160, 50, true}, {40, 12, false}} {
		name := fmt.Sprintf("screen-%d", tc.columns)
		if tc.color {
			name += "-color"
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFilm(t, tc.columns, tc.rows, tc.color)
				f.build(tc.color)
				golden.Equal(t, name+".txt", f.shots.String())
			})
		})
	}
}

// The tree is never higher than the terminal, so that nothing of it scrolls away
// and stays: after the end there are finished lines alone.
func TestLiveViewFits(t *testing.T) {
	for _, rows := range []int{4, 5, 8, 24} {
		synctest.Test(t, func(t *testing.T) {
			f := newFilm(t, 60, rows, false)
			for i := range 9 {
				id := fmt.Sprint(i+1, ".1")
				f.send(started(id, fmt.Sprintf("[stage-%d 2/3] RUN number %d", i, i), progress.PhaseRun), printed(id, "output"))
			}
			f.wait(time.Second)
			if text := f.screen.Text(); strings.Count(text, "\n") > rows || !strings.Contains(text, "└─ ") || !f.screen.CursorHidden() {
				t.Errorf("%d rows:\n%s", rows, text)
			}
			var want strings.Builder
			for i := range 9 {
				f.send(done(fmt.Sprint(i+1, ".1"), "", progress.PhaseRun, 1000))
				f.wait(time.Second)
				fmt.Fprintln(&want, join(fmt.Sprintf("✓ [stage-%d 2/3] RUN number %d", i, i), "1.0s", 59))
			}
			if err := f.view.Close(); err != nil {
				t.Error(err)
			}
			if got := f.screen.Text(); got != want.String() {
				t.Errorf("%d rows:\n%s", rows, got)
			}
		})
	}
}

// A terminal that becomes narrower or wider is drawn on as it is then.
func TestLiveViewResized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilm(t, 100, 20, false)
		f.send(done("1.0", "[app 1/2] FROM x", progress.PhaseExtract, 100), started("1.1", "[app 1/2] RUN a command of some length that is cut where there is no room for it", progress.PhaseRun), printed("1.1", "its output"))
		f.wait(time.Second)
		f.shot("wide", false)
		f.screen.Resize(50, 10)
		f.wait(time.Second)
		f.shot("narrow", false)
		f.screen.Resize(120, 30)
		f.wait(time.Second)
		f.shot("wider", false)
		if err := f.view.Close(); err != nil {
			t.Error(err)
		}
		golden.Equal(t, "resized.txt", f.shots.String())
	})
}

// A terminal that wraps lines anew when it becomes narrower has more rows to go
// up than were drawn.
func TestHeightAfterWrapping(t *testing.T) {
	v := &terminal{drawn: []int{99, 10, 0, 50}, opt: Options{Abilities: Abilities{Reflow: true}}}
	for columns, want := range map[int]int{100: 4, 99: 4, 98: 5, 50: 5, 49: 7, 10: 17} {
		if got := v.height(columns); got != want {
			t.Errorf("%d columns: %d rows, want %d", columns, got, want)
		}
	}
	v.opt.Reflow = false
	if got := v.height(10); got != 4 {
		t.Errorf("without wrapping: %d rows", got)
	}
}

// Closing early leaves no running step on the screen, and gives the cursor back.
func TestLiveViewInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilm(t, 80, 24, false)
		f.send(started("1.1", "[app 1/1] RUN sleep", progress.PhaseRun), printed("1.1", "zzz"))
		f.wait(time.Second)
		if text := f.screen.Text(); !strings.Contains(text, "└─ app 1/1  RUN sleep") || !f.screen.CursorHidden() {
			t.Errorf("screen:\n%s", text)
		}
		f.send(Event{Kind: progress.KindResult, State: progress.StateFailed, Error: "the build was stopped: interrupt"})
		if err := f.view.Close(); err != nil {
			t.Fatal(err)
		}
		if got := f.screen.Text(); got != "✗ the build was stopped: interrupt\n" || f.screen.CursorHidden() {
			t.Errorf("screen after Close:\n%s", got)
		}
	})
}

// What failed stays, with the last of what it printed.
func TestLiveViewFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilm(t, 60, 24, false)
		f.send(started("1.1", "[app 1/1] RUN make", progress.PhaseRun))
		for i := range 50 {
			f.send(printed("1.1", fmt.Sprint("line ", i)))
		}
		f.send(Event{Kind: progress.KindStep, ID: "1.1", State: progress.StateFailed, MS: 100, Error: "exit status 2\nof make"})
		f.send(Event{Kind: progress.KindStep, ID: "1.1", State: progress.StateFailed, MS: 100, Error: "told twice"})
		f.send(started("2.1", "[b 1/1] RUN other", progress.PhaseRun), printed("2.1", "unheard"))
		f.send(Event{Kind: progress.KindStep, ID: "2.1", State: progress.StateFailed, MS: 100, Error: progress.Stopped})
		f.send(Event{Kind: progress.KindResult, State: progress.StateFailed, Text: "Dockerfile:2: RUN make: exit status 2"})
		if err := f.view.Close(); err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		fmt.Fprintln(&want, join("✗ [app 1/1] RUN make", "0.1s", 59))
		for i := 10; i < 50; i++ {
			fmt.Fprintln(&want, "    line", i)
		}
		fmt.Fprint(&want, "  exit status 2\n  of make\n"+join("✗ [b 1/1] RUN other", "0.1s", 59)+"\n  stopped with the rest of the build\n✗ Dockerfile:2: RUN make: exit status 2\n")
		if got := f.screen.Text(); got != want.String() {
			t.Errorf("screen:\n%s", got)
		}
	})
}
