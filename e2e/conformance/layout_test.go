package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/e2e/internal/lab"
	"github.com/kilnhook/kiln/e2e/internal/origin"
)

// layout is a case on disk, ready to be built.
type layout struct {
	build    lab.Build
	bases    [][2]string       // names and Dockerfiles of images to build and push first
	contexts string            // directory of the further contexts
	secrets  string            // directory
	known    *strings.Replacer // of what "$" and a name stand for

	origin   *origin.Server        // nil if the case fetches nothing
	agents   []io.Closer           // of ssh
	archives map[string][]archived // made by "entry", by name
	late     []func() error        // what is left to do once files have their times
}

// layOut writes the context of a case to directories below dir, which is empty.
func (c *testCase) layOut(dir string, known *strings.Replacer) (*layout, error) {
	l := &layout{contexts: filepath.Join(dir, "contexts"), secrets: filepath.Join(dir, "secrets"), known: known}
	l.build = lab.Build{
		Context: filepath.Join(dir, "context"), Args: map[string]string{}, Labels: map[string]string{},
		Secrets: map[string]string{}, SSH: map[string]string{}, Contexts: map[string]string{}, Layouts: map[string]string{},
	}
	for _, d := range []string{l.build.Context, l.contexts, l.secrets} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := l.startOrigin(c); err != nil {
		return nil, err
	}
	for _, f := range c.archive.Files {
		path := filepath.Join(l.build.Context, filepath.FromSlash(f.Name))
		if strings.HasPrefix(f.Name, wantDir) {
			continue
		}
		if rest, ok := strings.CutPrefix(f.Name, contextsDir); ok {
			path = filepath.Join(l.contexts, filepath.FromSlash(rest))
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, l.withOrigin(f.Data), 0o644); err != nil {
			return nil, err
		}
	}
	for _, d := range c.directives {
		if err := l.carryOut(d); err != nil {
			return nil, fmt.Errorf("%s: %w", d.line, err)
		}
	}
	errs := []error{lab.Settle(l.build.Context), lab.Settle(l.contexts)}
	for _, f := range l.late {
		errs = append(errs, f())
	}
	return l, errors.Join(errs...)
}

// carryOut carries out one directive.
func (l *layout) carryOut(d directive) error {
	key, value, isPair := strings.Cut(l.filled(d.rest), "=")
	first, second, two := strings.Cut(d.rest, " ")
	switch {
	case d.word == "arg" && isPair:
		l.build.Args[key] = value
	case d.word == "label" && isPair:
		l.build.Labels[key] = value
	case d.word == "target":
		l.build.Target = d.rest
	case d.word == "platform":
		l.build.Platform = d.rest
	case d.word == "file":
		l.build.Dockerfile = d.rest
	case d.word == "flag":
		l.build.Flags = append(l.build.Flags, l.filled(d.rest))
	case d.word == "env" && isPair:
		l.build.Env = append(l.build.Env, key+"="+value)
	case d.word == "base" && two:
		l.bases = append(l.bases, [2]string{first, second})
	case d.word == "secret" && isPair:
		l.build.Secrets[key] = filepath.Join(l.secrets, key)
		return os.WriteFile(l.build.Secrets[key], []byte(value), 0o600)
	case d.word == "context" && isPair:
		if name, ok := strings.CutPrefix(value, "./"); ok {
			value = filepath.Join(l.contexts, name)
		}
		l.build.Contexts[key] = value
	default:
		if known, err := l.offer(d); known || err != nil {
			return err
		}
		return l.change(d)
	}
	return nil
}

// path is a file of the context, or of a further one.
func (l *layout) path(name string) string {
	if rest, ok := strings.CutPrefix(name, contextsDir); ok {
		return filepath.Join(l.contexts, filepath.FromSlash(rest))
	}
	return filepath.Join(l.build.Context, filepath.FromSlash(name))
}

// change carries out a directive about files.
func (l *layout) change(d directive) error {
	first, second, two := strings.Cut(d.rest, " ")
	switch {
	case d.word == "mkdir" && two:
		if err := os.MkdirAll(l.path(second), 0o755); err != nil {
			return err
		}
		return chmod(l.path(second), first)
	case d.word == "chmod" && two:
		return chmod(l.path(second), first)
	case d.word == "chown" && two:
		var uid, gid int
		if _, err := fmt.Sscanf(first, "%d:%d", &uid, &gid); err != nil {
			return err
		}
		return os.Lchown(l.path(second), uid, gid)
	case d.word == "symlink" && two:
		if err := os.MkdirAll(filepath.Dir(l.path(first)), 0o755); err != nil {
			return err
		}
		return os.Symlink(second, l.path(first))
	case d.word == "hardlink" && two:
		return os.Link(l.path(second), l.path(first))
	case d.word == "fifo":
		return unix.Mkfifo(l.path(d.rest), 0o644)
	case d.word == "archive" && two:
		return pack(l.path(first), l.path(second))
	case d.word == "crlf":
		return rewrite(l.path(d.rest), func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) })
	case d.word == "bom":
		return rewrite(l.path(d.rest), func(b []byte) []byte { return append([]byte("\xef\xbb\xbf"), b...) })
	}
	late, err := l.oddity(d)
	if late != nil {
		l.late = append(l.late, late)
	}
	return err
}

func rewrite(path string, f func([]byte) []byte) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, f(content), 0o644)
}

// pack archives the content of dir and removes dir.
func pack(path, dir string) error {
	if err := lab.Settle(dir); err != nil {
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
