package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/need"
)

// complete runs bash with the script that a program prints for it, and returns what
// it offers for the last word of a command line.
func complete(t *testing.T, program, line string) []string {
	t.Helper()
	const library = "/usr/share/bash-completion/bash_completion"
	if _, err := os.Stat(library); err != nil {
		need.Missing(t, library+" (run .ci/setup)")
	}
	name := filepath.Base(program)
	cmd := exec.CommandContext(t.Context(), need.Command(t, "bash"), "--norc", "-c", `
		source `+library+`
		source <(`+name+` completion bash) || exit 1
		COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMP_KEY=9
		read -ra COMP_WORDS <<<"$1"
		[[ $1 == *' ' ]] && COMP_WORDS+=('')
		COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
		function=$(complete -p `+name+` | sed 's/.* -F \([^ ]*\) .*/\1/')
		compopt() { :; }
		"$function" || exit 1
		printf '%s\n' "${COMPREPLY[@]}"
	`, "bash", line)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"), "KILN_SERVER=127.0.0.1:1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("complete %q: %v\n%s", line, err, out)
	}
	var words []string
	for word := range strings.Lines(string(out)) {
		if fields := strings.Fields(word); len(fields) > 0 {
			words = append(words, fields[0]) // what follows describes it
		}
	}
	return words
}

// built compiles a program of this repository under its name.
func built(t *testing.T, name, pkg string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, pkg).CombinedOutput(); err != nil {
		t.Fatalf("compile %s: %v\n%s", pkg, err, out)
	}
	return program
}

// Bash completes commands, flags and the values of flags, of kiln and the executor.
func TestBashCompletion(t *testing.T) {
	kiln, executor := built(t, "kiln", "."), built(t, "executor", "../../executor")
	for _, tc := range []struct {
		program, line string
		want, not     []string
	}{
		{kiln, "kiln bu", []string{"build", "builds"}, []string{"submit"}},
		{kiln, "kiln ", []string{"up", "submit", "diff", "completion"}, []string{"git-hook"}},
		{kiln, "kiln submit --pro", []string{"--progress"}, []string{"--name"}},
		{kiln, "kiln submit --progress ", []string{"auto", "tty", "plain", "json"}, nil},
		{kiln, "kiln builds --outcome f", []string{"failed"}, []string{"success"}},
		{kiln, "kiln triggers ", []string{"check", "explain"}, nil},
		{kiln, "kiln completion ", []string{"bash", "zsh", "fish"}, nil},
		{executor, "executor --push", []string{"--push-by-digest", "--push-retry"}, []string{"--context"}},
		{executor, "executor --progress ", []string{"auto", "tty", "plain", "json"}, nil},
		{executor, "executor --progress=p", []string{"plain"}, []string{"json"}},
		{executor, "executor do", []string{"doctor"}, nil},
	} {
		got := complete(t, tc.program, tc.line)
		for _, w := range tc.want {
			if !slices.Contains(got, w) {
				t.Errorf("%q: %q is not offered, but %q", tc.line, w, got)
			}
		}
		for _, w := range tc.not {
			if slices.Contains(got, w) {
				t.Errorf("%q: %q is offered", tc.line, w)
			}
		}
	}
}

// What fish offers has the words of --help beside it, as they are there.
func TestFishCompletion(t *testing.T) {
	kiln, executor := built(t, "kiln", "."), built(t, "executor", "../../executor")
	for _, tc := range []struct{ program, line, want string }{
		{kiln, "kiln builds", "builds\tlist builds, newest first"},
		{kiln, "kiln builds --outcome f", "failed"},
		{executor, "executor --cache-rep", "--cache-repo\trepository of the cache, or oci:DIR; <destination>/cache by default"},
		{executor, "executor --progress p", "plain\t"},
		{executor, "executor do", "doctor"},
	} {
		name := filepath.Base(tc.program)
		cmd := exec.CommandContext(t.Context(), need.Command(t, "fish"), "--no-config", "-c", name+" completion fish | source; complete -C $argv[1]", tc.line)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "PATH="+filepath.Dir(tc.program)+":"+os.Getenv("PATH"), "KILN_SERVER=127.0.0.1:1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), tc.want) {
			t.Errorf("%q: %v, %q, want %q", tc.line, err, out, tc.want)
		}
	}
}

// Zsh takes the scripts: what a flag says may hold its quotes and brackets.
func TestZshSyntax(t *testing.T) {
	for _, program := range []string{built(t, "kiln", "."), built(t, "executor", "../../executor")} {
		script, err := exec.CommandContext(t.Context(), program, "completion", "zsh").Output()
		if err != nil || !strings.HasPrefix(string(script), "#compdef "+filepath.Base(program)+"\n") {
			t.Fatalf("%s: %v, %.40q", program, err, script)
		}
		cmd := exec.CommandContext(t.Context(), need.Command(t, "zsh"), "-f", "-n")
		cmd.Stdin = strings.NewReader(string(script))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", program, err, out)
		}
	}
}
