package step

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

var update = flag.Bool("update", false, "rewrite the trees in testdata")

// Every file of testdata holds a Dockerfile of one stage from scratch, a build
// context, a root that the stage begins with, the root of "--from=other", and
// the tree or the error that carrying out the steps must give. What BuildKit
// does is in solver/llbsolver/file and in tonistiigi/fsutil/copy.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) { golden(t, name) })
	}
}

// What holds in memory holds on a disk, times aside: there every file has one.
func TestGoldenOnDisk(t *testing.T) {
	need.Root(t)
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	times := regexp.MustCompile(` @\d+`)
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			result := carryOut(t, ar, func(tree string) rootfs.FS {
				if strings.Contains(tree, "char ") {
					if err := unix.Mknod(filepath.Join(t.TempDir(), "null"), unix.S_IFCHR, 0); err != nil {
						need.Missing(t, "device nodes")
					}
				}
				d, err := rootfs.OpenDir(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = d.Close() })
				fillTree(t, d, tree)
				return d
			})
			want := ar.Files[len(ar.Files)-1]
			if want.Name == "error" || result.Name == "error" {
				if want.Name != result.Name {
					t.Errorf("got %s %s", result.Name, result.Data)
				}
				return
			}
			if got, want := times.ReplaceAllString(string(result.Data), ""), times.ReplaceAllString(string(want.Data), ""); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func golden(t *testing.T, name string) {
	ar, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	result := carryOut(t, ar, func(tree string) rootfs.FS { return buildTree(t, tree) })
	last := len(ar.Files) - 1
	if f := ar.Files[last]; f.Name == result.Name && string(f.Data) == string(result.Data) {
		return
	}
	if !*update {
		t.Fatalf("got\n-- %s --\n%s\nwant\n-- %s --\n%s", result.Name, result.Data, ar.Files[last].Name, ar.Files[last].Data)
	}
	if f := ar.Files[last]; f.Name == "tree" || f.Name == "error" {
		ar.Files = ar.Files[:last]
	}
	ar.Files = append(ar.Files, result)
	if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
		t.Fatal(err)
	}
}

// carryOut does what the Dockerfile of a golden file says on filesystems that
// are made of its trees.
func carryOut(t *testing.T, ar *txtar.Archive, build func(tree string) rootfs.FS) txtar.File {
	t.Helper()
	trees := map[string]string{}
	for _, f := range ar.Files {
		trees[f.Name] = string(f.Data)
	}
	root := build(trees["root"])
	var notes strings.Builder
	in := Inputs{
		Context: build(trees["context"]),
		From:    build(trees["from"]),
		Now:     func() time.Time { return time.Unix(1000, 0) },
		Note:    func(s string) { fmt.Fprintf(&notes, "note %s\n", s) },
		Fetch:   fakeFetch,
	}
	if text, ok := trees[".dockerignore"]; ok {
		var err error
		if in.Ignore, err = dockerfile.ParseIgnore(".dockerignore", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range planSteps(t, trees["Dockerfile"]) {
		if step.Op == nil {
			continue
		}
		if err := Do(t.Context(), root, step.Op, in); err != nil {
			return txtar.File{Name: "error", Data: []byte(err.Error() + "\n")}
		}
	}
	return txtar.File{Name: "tree", Data: []byte(printTree(t, root) + notes.String())}
}

func planSteps(t testing.TB, text string) []plan.Step {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte("FROM scratch\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.New(f, plan.Options{Base: func(string, v1.Platform) (plan.Base, error) {
		return plan.Base{Config: &v1.ConfigFile{}}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return p.Final().Steps
}

// fakeFetch answers "…/old" as of 1970+5s, "…/gone" not at all, others without
// a date; the content is the URL.
func fakeFetch(_ context.Context, url string) (io.ReadCloser, URLInfo, error) {
	if strings.HasSuffix(url, "/gone") {
		return nil, URLInfo{}, errors.New("404 Not Found")
	}
	info := URLInfo{}
	if strings.HasSuffix(url, "/old") {
		info.ModTime = time.Unix(5, 0)
	}
	return io.NopCloser(strings.NewReader(url)), info, nil
}
