package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
)

// build is something to build: a context directory and what goes with it.
type build struct {
	context      string
	target       string
	args, labels map[string]string
	secrets      map[string]string // paths of files by id
	allow        []compare.Rule    // how our image may differ from BuildKit's
}

// contextTime is the modification time of every file of a context, so that
// nothing depends on when a test runs.
func contextTime() time.Time { return time.Date(2025, 5, 5, 5, 5, 5, 0, time.UTC) }

// readBuild lays out the context that a file of testdata/builds describes. Its
// parts are the files of the context. The text before them has directives, one
// a line, and remarks that begin with "#":
//
//	arg NAME=VALUE          label NAME=VALUE     target STAGE
//	secret ID=VALUE
//	mkdir MODE PATH         chmod MODE PATH      chown UID:GID PATH
//	symlink PATH TARGET     hardlink PATH OLD
//	archive PATH DIR        (compressed as the suffix of PATH says; DIR is removed)
//	allow PART WHERE FIELD # REASON
func readBuild(t *testing.T, file string) build {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b := build{context: t.TempDir(), args: map[string]string{}, labels: map[string]string{}, secrets: map[string]string{}}
	secrets := t.TempDir()
	for _, f := range archive.Files {
		path := filepath.Join(b.context, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(string(archive.Comment)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if pair, ok := strings.CutPrefix(line, "secret "); ok {
			id, value, _ := strings.Cut(pair, "=")
			b.secrets[id] = filepath.Join(secrets, id)
			if err := os.WriteFile(b.secrets[id], []byte(value), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := b.direct(line); err != nil {
			t.Fatalf("%s: %s: %v", file, line, err)
		}
	}
	if err := settle(b.context); err != nil {
		t.Fatal(err)
	}
	return b
}

// direct carries out one directive.
func (b *build) direct(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	first, second, two := strings.Cut(rest, " ")
	path := filepath.Join(b.context, filepath.FromSlash(second))
	key, value, isPair := strings.Cut(rest, "=")
	switch {
	case word == "arg" && isPair:
		b.args[key] = value
	case word == "label" && isPair:
		b.labels[key] = value
	case word == "target":
		b.target = rest
	case word == "allow":
		rules, err := compare.ParseRules(strings.NewReader(rest))
		b.allow = append(b.allow, rules...)
		return err
	case word == "mkdir" && two:
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		return chmod(path, first)
	case word == "chmod" && two:
		return chmod(path, first)
	case word == "chown" && two:
		var uid, gid int
		if _, err := fmt.Sscanf(first, "%d:%d", &uid, &gid); err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	case word == "symlink" && two:
		return os.Symlink(second, filepath.Join(b.context, filepath.FromSlash(first)))
	case word == "hardlink" && two:
		return os.Link(path, filepath.Join(b.context, filepath.FromSlash(first)))
	case word == "archive" && two:
		return pack(filepath.Join(b.context, filepath.FromSlash(first)), path)
	default:
		return fmt.Errorf("unknown directive")
	}
	return nil
}

// pack archives the content of dir and removes dir.
func pack(path, dir string) error {
	if err := settle(dir); err != nil {
		return err
	}
	tar := exec.Command("tar", "--create", "--auto-compress", "--numeric-owner", "--sort=name", "--directory="+dir, "--file="+path, ".")
	if out, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return os.RemoveAll(dir)
}

func chmod(path, mode string) error {
	bits, err := strconv.ParseUint(mode, 8, 12)
	if err != nil {
		return err
	}
	m := os.FileMode(bits & 0o777)
	for bit, flag := range map[uint64]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if bits&bit != 0 {
			m |= flag
		}
	}
	return os.Chmod(path, m)
}

// settle sets the time of everything below a directory.
func settle(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(path, contextTime(), contextTime())
	})
}
