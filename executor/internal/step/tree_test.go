package step

import (
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// The trees of the tests are lines in this notation; mode, owner and time may
// be left out (0755 for directories, 0644 for files, 0:0, none):
//
//	dir 0755 1:2 @100 name
//	file 4755 0:0 @100 name "content"
//	link 0:0 name -> target
//	hard name => other
//	char 1:3 name      a device; block likewise
//	fifo name
//	sock name

func buildTree(t testing.TB, text string) *rootfs.Mem {
	t.Helper()
	m := rootfs.NewMem()
	fillTree(t, m, text)
	return m
}

// fillTree puts the files of a tree into a filesystem. Directories get their
// modes and times once all is in them.
func fillTree(t testing.TB, m rootfs.FS, text string) {
	t.Helper()
	var dirs []rootfs.Entry
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		e, content := parseEntry(t, line)
		for p := rootfs.Parent(e.Name); ; p = rootfs.Parent(p) {
			if _, err := m.Lstat(p); err == nil {
				break
			}
			t.Fatalf("%s: name its parent first", line)
		}
		if err := m.Put(e, strings.NewReader(content)); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if e.Mode.IsDir() {
			dirs = append(dirs, e)
		}
	}
	for _, e := range dirs {
		if err := m.Put(e, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func parseEntry(t testing.TB, line string) (rootfs.Entry, string) {
	t.Helper()
	kind, rest, _ := strings.Cut(line, " ")
	e := rootfs.Entry{}
	kinds := map[string]fs.FileMode{
		"dir": fs.ModeDir | 0o755, "file": 0o644, "link": fs.ModeSymlink | 0o777, "hard": 0, "fifo": fs.ModeNamedPipe | 0o644,
		"sock": fs.ModeSocket | 0o755, "char": fs.ModeDevice | fs.ModeCharDevice | 0o600, "block": fs.ModeDevice | 0o600,
	}
	mode, ok := kinds[kind]
	if !ok {
		t.Fatalf("%s: what is a %s?", line, kind)
	}
	e.Mode = mode
	for {
		word, after, _ := strings.Cut(rest, " ")
		if n, err := strconv.ParseUint(word, 8, 32); err == nil && len(word) == 4 {
			m, err := parseMode(strconv.FormatUint(n, 8))
			if err != nil {
				t.Fatal(err)
			}
			e.Mode = m.Apply(e.Mode)
		} else if a, b, ok := pair(word); ok {
			if e.Mode&fs.ModeDevice != 0 {
				e.Major, e.Minor = uint32(a), uint32(b)
			} else {
				e.UID, e.GID = a, b
			}
		} else if at, ok := strings.CutPrefix(word, "@"); ok {
			n, err := strconv.ParseInt(at, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			e.ModTime = time.Unix(n, 0)
		} else {
			break
		}
		rest = after
	}
	content := ""
	switch kind {
	case "link":
		e.Name, e.Link, _ = strings.Cut(rest, " -> ")
	case "hard":
		e.Name, e.Link, _ = strings.Cut(rest, " => ")
		e.Hard = true
	default:
		name, quoted, ok := strings.Cut(rest, ` "`)
		e.Name = name
		if ok {
			var err error
			if content, err = strconv.Unquote(`"` + quoted); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	return e, content
}

func pair(word string) (a, b int, ok bool) {
	x, y, ok := strings.Cut(word, ":")
	a, aerr := strconv.Atoi(x)
	b, berr := strconv.Atoi(y)
	return a, b, ok && aerr == nil && berr == nil
}

// printTree writes a filesystem in the notation that buildTree reads. The root
// is left out.
func printTree(t testing.TB, fsys rootfs.FS) string {
	t.Helper()
	var b strings.Builder
	first := map[rootfs.Inode]string{}
	err := rootfs.Walk(fsys, ".", func(e rootfs.Entry) error {
		if e.Name == "." {
			return nil
		}
		if name, ok := first[e.Inode]; ok && e.Nlink > 1 {
			fmt.Fprintf(&b, "hard %s => %s\n", e.Name, name)
			return nil
		}
		first[e.Inode] = e.Name
		content := ""
		if e.Mode.IsRegular() {
			r, err := fsys.Open(e.Name)
			if err != nil {
				return err
			}
			data, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			if content = ""; len(data) > 0 {
				content = " " + strconv.Quote(string(data))
			}
		}
		b.WriteString(printEntry(e) + content + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func printEntry(e rootfs.Entry) string {
	mode := uint32(e.Mode.Perm())
	for bit, m := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if e.Mode&m != 0 {
			mode |= bit
		}
	}
	at := ""
	if !e.ModTime.IsZero() {
		at = fmt.Sprintf(" @%d", e.ModTime.Unix())
	}
	owner := fmt.Sprintf(" %d:%d", e.UID, e.GID)
	perm := fmt.Sprintf(" %04o", mode)
	switch {
	case e.Hard:
		return fmt.Sprintf("hard %s => %s", e.Name, e.Link)
	case e.Mode.IsDir():
		return "dir" + perm + owner + at + " " + e.Name
	case e.Mode&fs.ModeSymlink != 0:
		return "link" + owner + at + " " + e.Name + " -> " + e.Link
	case e.Mode&fs.ModeCharDevice != 0:
		return fmt.Sprintf("char%s%s %d:%d%s %s", perm, owner, e.Major, e.Minor, at, e.Name)
	case e.Mode&fs.ModeDevice != 0:
		return fmt.Sprintf("block%s%s %d:%d%s %s", perm, owner, e.Major, e.Minor, at, e.Name)
	case e.Mode&fs.ModeNamedPipe != 0:
		return "fifo" + perm + owner + at + " " + e.Name
	}
	return "file" + perm + owner + at + " " + e.Name
}
