package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/infra/kiln/internal/cmd"
)

var update = flag.Bool("update", false, "write what is printed into the cookbook")

// kilnIn runs kiln and returns what it prints and its exit status.
func kilnIn(t *testing.T, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	status := cmd.Run(t.Context(), cmd.Process{Args: args, Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }, Now: time.Now, Executable: "/kiln", Version: "v1"})
	return out.String(), status
}

// Every kiln.yaml of docs/triggers-cookbook.md is in order, and its events are
// explained as the page says.
func TestTriggersCookbook(t *testing.T) {
	page, err := filepath.Abs("../../docs/triggers-cookbook.md")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	fence := regexp.MustCompile("(?s)```(\\w+)( narrowing)?\n(.*?)```")
	sections := strings.SplitAfter(string(raw), "\n## ")
	for n, section := range sections[1:] {
		title, _, _ := strings.Cut(section, "\n")
		var said string
		count := map[string]int{}
		sections[n+1] = fence.ReplaceAllStringFunc(section, func(block string) string {
			m := fence.FindStringSubmatch(block)
			kind, narrowing, text := m[1], m[2] != "", m[3]
			count[kind]++
			write := func(name string) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			switch {
			case kind == "yaml" && narrowing:
				write(".kiln.yaml")
				if out, status := kilnIn(t, "triggers", "check", "--narrowing", ".kiln.yaml"); status != 0 {
					t.Errorf("%s: %s", title, out)
				}
			case kind == "yaml":
				write("kiln.yaml")
				if out, status := kilnIn(t, "triggers", "check", "kiln.yaml"); status != 0 {
					t.Errorf("%s: %s", title, out)
				}
			case kind == "http":
				write("event.http")
				var status int
				if said, status = kilnIn(t, "triggers", "explain", "--triggers", "kiln.yaml", "event.http"); status != 0 {
					t.Errorf("%s: %s", title, said)
				}
			case kind == "text":
				if *update {
					return "```text\n" + said + "```"
				}
				if text != said {
					t.Errorf("%s: the page says\n%s\nbut kiln says (-update writes it)\n%s", title, text, said)
				}
			default:
				t.Errorf("%s: what is a block of %s for?", title, kind)
			}
			return block
		})
		if count["yaml"] == 0 || count["http"] == 0 || count["http"] != count["text"] {
			t.Errorf("%s: blocks %v: want a kiln.yaml, and an event with what is made of it", title, count)
		}
	}
	if len(sections) < 9 {
		t.Errorf("there are %d recipes", len(sections)-1)
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(page, []byte(strings.Join(sections, "")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
