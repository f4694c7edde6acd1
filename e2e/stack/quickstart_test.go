package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/kilnhook/kiln/e2e/port"

	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/stackd"
	"github.com/kilnhook/kiln/e2e/need"
)

// step is a block of commands of a page, and what it says they print.
type step struct {
	commands string
	prints   []string // lines, in which … stands for anything
}

// stepsOf reads the blocks of sh and text of a page.
func stepsOf(t *testing.T, page string) []step {
	t.Helper()
	raw, err := os.ReadFile(page)
	check(t, err)
	var steps []step
	for _, m := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(string(raw), -1) {
		switch m[1] {
		case "sh":
			steps = append(steps, step{commands: m[2]})
		case "text":
			if len(steps) == 0 {
				t.Fatalf("%s shows what nothing printed:\n%s", page, m[2])
			}
			last := &steps[len(steps)-1]
			last.prints = append(last.prints, strings.Split(strings.TrimSpace(m[2]), "\n")...)
		}
	}
	return steps
}

// missing are the lines that an output has none like.
func (s step) missing(output string) []string {
	var out []string
	for _, line := range s.prints {
		pattern := "(?m)^" + strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + "$"
		if !regexp.MustCompile(pattern).MatchString(output) {
			out = append(out, line)
		}
	}
	return out
}

// stopStack ends a stack that a script has left behind.
func stopStack(data string) {
	var a struct{ PID int }
	raw, err := os.ReadFile(filepath.Join(data, "address.json"))
	if err != nil || json.Unmarshal(raw, &a) != nil || a.PID <= 0 {
		return
	}
	if name, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", a.PID)); err == nil && strings.HasPrefix(name, programs.kiln) {
		_ = syscall.Kill(a.PID, syscall.SIGKILL)
	}
}

// The commands of docs/quickstart.md work, one after the other, and print what it says
// they do.
func TestQuickstart(t *testing.T) {
	registry := stackd.Bases(t)
	for _, name := range []string{"bash", "curl", "git", "tar"} {
		need.Command(t, name)
	}
	steps := stepsOf(t, "../../docs/quickstart.md")
	if len(steps) < 10 {
		t.Fatalf("the page has %d blocks of commands", len(steps))
	}
	dir := t.TempDir()
	const mark = "@@ step "
	script := "exec 2>&1\nset -eu -o pipefail\nset -m\ntrap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n"
	for i, s := range steps {
		script += fmt.Sprintf("echo '%s%d'\n%s", mark, i, s.commands)
	}
	first := port.Row(t, 2)
	address := fmt.Sprintf("127.0.0.1:%d", first)
	file := filepath.Join(dir, "quickstart.sh")
	check(t, os.WriteFile(file, []byte(strings.ReplaceAll(script, "127.0.0.1:8765", address)), 0o600))
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*patience, errors.New("it takes too long"))
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", file)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + filepath.Dir(programs.kiln) + ":" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8", "GIT_CONFIG_NOSYSTEM=1",
		"KILN_BASE_MIRROR=" + registry, "KANIKO_REGISTRY_MAP=docker.io=" + registry, "TMPDIR=" + dir,
	}
	t.Cleanup(func() { stopStack(filepath.Join(dir, "kiln-data")) })
	raw, err := process.Run(ctx, cmd, nil)
	output := strings.ReplaceAll(string(raw), address, "127.0.0.1:8765")
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "up.log"))
		t.Fatalf("%v\n%s\nthe stack says\n%s", err, output, log)
	}
	for i, s := range steps {
		_, rest, found := strings.Cut(output, fmt.Sprintf("%s%d\n", mark, i))
		said, _, _ := strings.Cut(rest, mark)
		if lost := s.missing(said); !found || len(lost) > 0 {
			t.Errorf("after\n%s\nthere is no %q in\n%s", s.commands, lost, said)
		}
	}
	if t.Failed() {
		t.Log(output)
	}
	check(t, exec.Command("make", "-C", "../..", "-n", "build").Run())
}

// What a page says is printed is looked for line by line.
func TestMissingLines(t *testing.T) {
	s := step{prints: []string{"a …b", "c", "…d…"}}
	if got := s.missing("a long b\nccc\nxdx\n"); len(got) != 1 || got[0] != "c" {
		t.Errorf("missing: %q", got)
	}
}
