package step

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

func readsText(t *testing.T, tree string, op plan.Op, in Inputs) string {
	t.Helper()
	src := buildTree(t, tree)
	var b strings.Builder
	for r, err := range Reads(src, op, in) {
		if err != nil {
			fmt.Fprintf(&b, "error: %v\n", err)
			continue
		}
		if r.Entry.ModTime != (time.Time{}) || r.Entry.Inode != (rootfs.Inode{}) {
			t.Errorf("%+v depends on more than content", r)
		}
		fmt.Fprintf(&b, "%s: %s\n", r.Path, printEntry(r.Entry))
	}
	return b.String()
}

// What is read is named relative to what was named, in order, with the owners
// and modes of the copy, without times, and without what is ignored.
func TestReads(t *testing.T) {
	const tree = `dir 0700 5:5 @9 d
dir 0750 5:5 @9 d/sub
file 4711 5:6 @9 d/sub/f "F"
hard d/sub/g => d/sub/f
link 5:5 @9 d/l -> sub
sock d/s
file d/x.md
file 1:1 a1 "1"
file 1:1 a2 "2"
link to -> d/sub
`
	ignore, err := dockerfile.ParseIgnore(".dockerignore", []byte("**/*.md\n"))
	if err != nil {
		t.Fatal(err)
	}
	stage := 0
	for _, c := range []struct {
		name string
		op   plan.Op
		want string
	}{
		{"context", plan.Copy{Placing: plan.Placing{Dest: "/"}, Paths: []string{"d", "a*"}}, `d: dir 0000 0:0 .
d/l: link 0:0 l -> sub
d/s: file 0755 0:0 s
d/sub: dir 0750 0:0 sub
d/sub/f: file 4711 0:0 sub/f
d/sub/g: hard sub/g => sub/f
a1: file 0644 0:0 a1
a2: file 0644 0:0 a2
`},
		{"stage", plan.Copy{Placing: plan.Placing{Dest: "/", Chmod: "0600"}, From: plan.Source{Stage: &stage}, Paths: []string{"to"}}, `d/sub: dir 0000 0:0 .
d/sub/f: file 0600 5:6 f
d/sub/g: hard g => f
`},
		{"add", plan.Add{Placing: plan.Placing{Dest: "/"}, Paths: []string{"a1", "nomatch*"}}, "a1: file 0644 0:0 a1\n"},
		{"left out", plan.Copy{Placing: plan.Placing{Dest: "/", Skip: []string{"sub/g", "l"}, Chmod: "go="}, Paths: []string{"d"}}, `d: dir 0000 0:0 .
d/s: file 0700 0:0 s
d/sub: dir 0700 0:0 sub
d/sub/f: file 4700 0:0 sub/f
`},
		{"taken in again", plan.Copy{Placing: plan.Placing{Dest: "/", Skip: []string{"**", "!sub/f", "!nope"}}, Paths: []string{"d"}}, `d: dir 0000 0:0 .
d/sub: dir 0750 0:0 sub
d/sub/f: file 4711 0:0 sub/f
`},
		{"parents", plan.Copy{Placing: plan.Placing{Dest: "/"}, Paths: []string{"d/*/f", "sub/f"}, Parents: []string{".", "d"}}, `.: dir 0000 0:0 .
d: dir 0700 0:0 d
d/sub: dir 0750 0:0 d/sub
d/sub/f: file 4711 0:0 d/sub/f
d: dir 0000 0:0 .
d/sub: dir 0750 0:0 sub
d/sub/f: file 4711 0:0 sub/f
`},
		{"a heredoc alone", plan.Copy{Files: []plan.File{{Name: "x"}}}, ""},
		{"missing", plan.Copy{Placing: plan.Placing{Dest: "/"}, Paths: []string{"a1", "nope"}}, "error: nope is not in the build context\n"},
		{"no copy", plan.Workdir{Path: "/"}, "error: operation plan.Workdir copies nothing\n"},
	} {
		got := readsText(t, tree, c.op, Inputs{Ignore: ignore})
		want := strings.Replace(c.want, "d/s: ", ": ", 1)
		if got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, want)
		}
	}
}

// The caller may stop at any point.
func TestReadsStop(t *testing.T) {
	src := buildTree(t, "dir d\nfile d/a\nfile d/b\nfile e\n")
	for stop := range 4 {
		n := 0
		for _, err := range Reads(src, plan.Copy{Placing: plan.Placing{Dest: "/"}, Paths: []string{"d", "e"}}, Inputs{}) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n > stop {
				break
			}
		}
		if n != stop+1 {
			t.Errorf("%d reads after a stop at %d", n, stop)
		}
	}
}

// A filtered context is read-only and cannot be opened where it is excluded.
func TestFilter(t *testing.T) {
	src := buildTree(t, "dir a\nfile a/x \"x\"\nfile b \"b\"\nlink l -> a\n")
	ignore, err := dockerfile.ParseIgnore(".dockerignore", []byte("a\n"))
	if err != nil {
		t.Fatal(err)
	}
	f := Filter(src, ignore)
	if _, err := f.Open("a/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
	if names, err := f.List("."); err != nil || strings.Join(names, " ") != "b l" {
		t.Errorf("list: %q, %v", names, err)
	}
	if f.Put(rootfs.Entry{Name: "b", Mode: 0o644}, strings.NewReader("")) == nil || f.Remove("b") == nil {
		t.Error("it can be written")
	}
	r, err := f.Open("b")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(r); err != nil || string(data) != "b" {
		t.Errorf("%q, %v", data, err)
	}
	if Filter(f, ignore) != f || Filter(src, nil) != rootfs.FS(src) {
		t.Error("filtered twice")
	}
}

// What is read is what is copied: everything that a copy makes in an empty root
// was yielded by Reads.
func TestReadsAreCopied(t *testing.T) {
	const tree = "dir a\ndir a/b\nfile a/b/f \"f\"\nfile a/b/g.md\ndir a/c\nfile a/c/f\nfile a/h.md\nlink a/l -> h.md\n"
	for _, op := range []plan.Copy{
		{Paths: []string{"."}},
		{Paths: []string{"a"}, Placing: plan.Placing{Skip: []string{"**/*.md"}}},
		{Paths: []string{"."}, Placing: plan.Placing{Skip: []string{"**", "!a/b/f"}}},
		{Paths: []string{"."}, Placing: plan.Placing{Skip: []string{"a", "!a/**/f"}}},
		{Paths: []string{"**/f"}, Parents: []string{"."}},
		{Paths: []string{"b"}, Parents: []string{"a"}},
		{Paths: []string{"*"}, Parents: []string{"a"}, Placing: plan.Placing{Skip: []string{"b/f"}}},
		{Paths: []string{"a/x*"}, Parents: []string{"."}},
	} {
		op.Dest = "/"
		src, root := buildTree(t, tree), buildTree(t, "")
		var read strings.Builder
		for r, err := range Reads(src, op, Inputs{}) {
			if err != nil {
				t.Fatal(err)
			}
			if r.Entry.Name != "." {
				fmt.Fprintln(&read, r.Entry.Name)
			}
		}
		if err := Do(t.Context(), root, op, Inputs{Context: src}); err != nil {
			t.Fatal(err)
		}
		var made strings.Builder
		err := rootfs.Walk(root, ".", func(e rootfs.Entry) error {
			if e.Name != "." {
				fmt.Fprintln(&made, e.Name)
			}
			return nil
		})
		if err != nil || read.String() != made.String() {
			t.Errorf("%v: read\n%smade\n%s%v", op, &read, &made, err)
		}
	}
}
