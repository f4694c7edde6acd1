package events_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kilnhook/kiln"

// importsBelow returns what the Go files below a directory import: file name
// to import paths.
func importsBelow(t *testing.T, dir string, tests bool) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || (!tests && strings.HasSuffix(name, "_test.go")) {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			found[name] = append(found[name], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// within reports whether path is pkg or below it.
func within(path, pkg string) bool { return path == pkg || strings.HasPrefix(path, pkg+"/") }

// The package events itself knows nothing of ours and cannot reach the world.
func TestEventsIsPure(t *testing.T) {
	forbidden := []string{"net", "os", "syscall", "io/ioutil", "log", "runtime", module}
	allowed := []string{"net/url", "net/netip"}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v: %v", files, err)
	}
	for name, paths := range importsBelow(t, ".", false) {
		if filepath.Dir(name) != "." {
			continue
		}
		for _, path := range paths {
			for _, bad := range forbidden {
				if within(path, bad) && !slices.Contains(allowed, path) {
					t.Errorf("%s imports %s", name, path)
				}
			}
		}
	}
}

// The parsers of foreign events, and triggers, know events and each other and
// nothing else of ours. They see headers, and no network or files.
func TestBelowEventsOnlyEvents(t *testing.T) {
	for name, paths := range importsBelow(t, ".", false) {
		if filepath.Dir(name) == "." || filepath.Base(filepath.Dir(name)) == "sourcetest" {
			continue
		}
		for _, path := range paths {
			switch {
			case path == "net/http", path == "net/url":
			case within(path, "net"), within(path, "os"), within(path, "syscall"):
				t.Errorf("%s imports %s", name, path)
			case within(path, module) && !within(path, module+"/events"):
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}

// What reacts to events never imports the executor: the two meet in events.
// What they stand on imports neither.
func TestFunctionsAndExecutorMeetOnlyInEvents(t *testing.T) {
	for _, rule := range []struct{ dir, forbidden string }{
		{"../functions", module + "/executor"},
		{"../infra/ledger", module + "/executor"}, {"../infra/ledger", module + "/functions"},
		{"../infra/bus", module + "/executor"}, {"../infra/bus", module + "/functions"},
		{"../executor/internal", module + "/events"}, {"../executor/internal", module + "/functions"},
	} {
		if _, err := os.Stat(rule.dir); err != nil {
			t.Fatalf("the rule about %s has nothing to look at: %v", rule.dir, err)
		}
		for name, paths := range importsBelow(t, rule.dir, true) {
			for _, path := range paths {
				if within(path, rule.forbidden) {
					t.Errorf("%s imports %s", name, path)
				}
			}
		}
	}
}

// The deciding parts of functions are given what they stand on: they import
// neither the local stack nor a cluster. Only a program joins them.
func TestFunctionsAreGivenWhatTheyStandOn(t *testing.T) {
	for name, paths := range importsBelow(t, "../functions", false) {
		if _, err := os.Stat(filepath.Join(filepath.Dir(name), "main.go")); err == nil {
			continue // a program, which joins what it stands on
		}
		for _, path := range paths {
			if within(path, module+"/infra/local") || within(path, module+"/knative") {
				t.Errorf("%s imports %s; only a program may", name, path)
			}
		}
	}
}

// A walk that finds nothing would prove nothing.
func TestImportsAreFound(t *testing.T) {
	found := importsBelow(t, ".", true)
	if !slices.Contains(found["imports_test.go"], "go/parser") {
		t.Errorf("imports of this file: %v", found["imports_test.go"])
	}
	if !within("net/http", "net") || within("network", "net") {
		t.Error("within does not tell net from network")
	}
}
