package stack

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/golden"
	"github.com/kilnhook/kiln/e2e/internal/stackd"
	"github.com/kilnhook/kiln/e2e/screen"
)

// stages has two stages that are built at the same time: the second ends last.
const stages = `FROM debian:bookworm-slim AS quick
RUN sleep 1; echo quick >/quick
FROM debian:bookworm-slim AS slow
RUN printf '\033[32mgreen\033[0m \033[2J\033[5;5Hhome \033]0;title\007end\n'; sleep 3; echo slow >/slow
FROM debian:bookworm-slim
COPY --from=quick /quick /
COPY --from=slow /slow /
RUN cat /quick /slow >/both
`

// executorOn starts the executor on a terminal, in a directory with the
// Dockerfile stages.
func executorOn(t *testing.T, registry string, columns int, env []string, flags ...string) *screen.Program {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), programs.executor, append([]string{
		"--context=.", "--destination=" + registry + "/app:1", "--isolation=overlay", "--work-dir=" + t.TempDir(),
		"--registry-map=docker.io=" + registry, "--insecure-registry=" + registry,
	}, flags...)...)
	cmd.Dir = app(t, stages)
	cmd.Env = append(append(os.Environ(), "TERM=xterm-256color", "XTERM_VERSION=as the emulator", "NO_COLOR="), env...)
	return screen.Start(t, cmd, columns, 30)
}

// masked is a screen without what differs from run to run: durations, sizes,
// digests and addresses, each in as many columns as it had.
func masked(text, registry string) string {
	hide := func(pattern, digits string) {
		text = regexp.MustCompile(pattern).ReplaceAllStringFunc(text, func(s string) string {
			return regexp.MustCompile(digits).ReplaceAllString(s, "#")
		})
	}
	text = strings.ReplaceAll(text, registry, "REGISTRY")
	var steps []string // of stages side by side, in the order in which they end
	step := regexp.MustCompile(`(?m)^✓ \[.*$`)
	step.ReplaceAllStringFunc(text, func(s string) string { steps = append(steps, s); return s })
	slices.Sort(steps)
	text = step.ReplaceAllStringFunc(text, func(string) string { s := steps[0]; steps = steps[1:]; return s })
	text = regexp.MustCompile(`(sha256:[0-9a-f]+)\n[0-9a-f]+\n`).ReplaceAllString(text, "$1\n") // what was wrapped
	hide(`sha256:[0-9a-f]+…?`, `[0-9a-f]+…?$`)
	hide(` *\b\d+(\.\d)?(s|B|kB|MB)\b`, ` *\d[\d.]*`)
	hide(`(?m)^ +\d+\.\d\d `, ` *\d+\.\d\d`)
	// Which phases are long enough to be told depends on the machine.
	text = regexp.MustCompile(`(?m)^(load|pull|extract|run)#s .*$`).ReplaceAllString(text, "PHASES")
	return text
}

// A build on a terminal: stages side by side while they run, and in the end what
// was done, layer by layer.
func TestExecutorOnTerminal(t *testing.T) {
	registry := stackd.Bases(t)
	for _, columns := range []int{80, 160} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			p := executorOn(t, registry, columns, nil)
			check(t, p.Shows(`├─ quick \d/2  (.|\n)*└─ slow \d/2  `, patience))
			check(t, p.Shows(`└─ slow 2/2  RUN printf .*\n +│ green home end`, patience))
			if !p.CursorHidden() || !strings.Contains(p.Colored(), "␛[32mgreen␛[m home end") {
				t.Errorf("the screen is\n%s", p.Colored())
			}
			status, err := p.Wait(patience)
			check(t, err)
			if status != 0 || p.CursorHidden() {
				t.Errorf("status %d, cursor hidden: %v", status, p.CursorHidden())
			}
			golden.Equal(t, fmt.Sprintf("executor-%d.txt", columns), masked(p.Text(), registry))
		})
	}
}

// NO_COLOR leaves the tree and takes the colours, TERM=dumb and --progress=plain
// leave lines.
func TestExecutorOnPlainTerminals(t *testing.T) {
	registry := stackd.Bases(t)
	p := executorOn(t, registry, 80, []string{"NO_COLOR=1"})
	check(t, p.Shows("└─ slow 2/2  RUN printf.*\n +│ green", patience))
	if text := p.Colored(); strings.Contains(text, "␛") {
		t.Errorf("with NO_COLOR:\n%s", text)
	}
	_, err := p.Wait(patience)
	check(t, err)
	dumb := executorOn(t, registry, 80, []string{"TERM=dumb"})
	plain := executorOn(t, registry, 80, nil, "--progress=plain")
	for name, p := range map[string]*screen.Program{"TERM=dumb": dumb, "--progress=plain": plain} {
		status, err := p.Wait(patience)
		check(t, err)
		if text := p.Text(); status != 0 || strings.Contains(text, "─") || !regexp.MustCompile(`(?m)^ +\d+\.\d\d #\d+ green home end$`).MatchString(text) {
			t.Errorf("%s: status %d\n%s", name, status, text)
		}
	}
	if !strings.Contains(plain.Colored(), "␛[32mgreen") || strings.Contains(dumb.Colored(), "␛") {
		t.Error("colours: plain lines on a terminal may have them, a dumb one not")
	}
}

// Ctrl-C ends a build and leaves the terminal as it was. A resized terminal is
// drawn on as it is.
func TestExecutorInterrupted(t *testing.T) {
	registry := stackd.Bases(t)
	p := executorOn(t, registry, 120, nil)
	check(t, p.Shows("└─ slow 2/2  RUN printf.*\n +│ green", patience))
	check(t, p.ResizeTo(60, 20))
	check(t, p.Shows(`(?m)^└─ slow 2/2  RUN printf .{20,32}… \d\.\ds\n +│ green home end$`, patience))
	check(t, p.Type("\x03"))
	status, err := p.Wait(patience)
	check(t, err)
	text := p.Text()
	if status == 0 || p.CursorHidden() || strings.Contains(text, "─") || !strings.Contains(text, "✓ [quick 1/2] FROM") || !strings.Contains(text, "✗ the build was stopped: ") {
		t.Errorf("status %d, cursor hidden: %v\n%s", status, p.CursorHidden(), text)
	}
}

// kiln submit shows the same tree, of a build by another process.
func TestSubmitOnTerminal(t *testing.T) {
	s := start(t)
	for _, columns := range []int{80, 160} {
		cmd := exec.CommandContext(t.Context(), programs.kiln, "submit", "--server", s.URL, "--name", fmt.Sprint("app", columns), ".")
		cmd.Dir = app(t, stages)
		cmd.Env = append(os.Environ(), "TERM=xterm-256color", "NO_COLOR=1")
		p := screen.Start(t, cmd, columns, 30)
		check(t, p.Shows(`├─ quick \d/2  (.|\n)*└─ slow \d/2  `, patience))
		status, err := p.Wait(patience)
		check(t, err)
		if text := p.Text(); status != 0 || p.CursorHidden() || !strings.Contains(text, "\nlayer   ") || !regexp.MustCompile(`\nbuild [0-9a-v]{10}: success in \S+s\n127\.0\.0\.1:\d+/app\d+@sha256:[0-9a-f]`).MatchString(text) || strings.Contains(text, "├─") {
			t.Errorf("status %d\n%s", status, text)
		}
	}
	started := time.Now()
	cmd := exec.CommandContext(t.Context(), programs.kiln, "submit", "--server", s.URL, "--name", "cut", ".")
	cmd.Dir = app(t, "FROM debian:bookworm-slim\nRUN sleep 60\n")
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	p := screen.Start(t, cmd, 80, 30)
	check(t, p.Shows("RUN sleep 60", patience))
	check(t, p.Type("\x03"))
	status, err := p.Wait(patience)
	check(t, err)
	if text := p.Text(); status != 1 || p.CursorHidden() || !strings.Contains(text, "the build goes on: kiln logs -f ") || !strings.HasSuffix(text, "kiln: interrupted\n") {
		t.Errorf("status %d after %s, cursor hidden: %v\n%s", status, time.Since(started), p.CursorHidden(), text)
	}
}
