package step

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/tools/txtar"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/plan"
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

func golden(t *testing.T, name string) {
	ar, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	trees := map[string]string{}
	var kept []txtar.File
	want := ""
	for _, f := range ar.Files {
		if f.Name == "tree" || f.Name == "error" {
			want = "-- " + f.Name + " --\n" + string(f.Data)
			continue
		}
		trees[f.Name] = string(f.Data)
		kept = append(kept, f)
	}
	result := txtar.File{Name: "tree"}
	root := buildTree(t, trees["root"])
	var notes strings.Builder
	in := Inputs{
		Context: buildTree(t, trees["context"]),
		From:    buildTree(t, trees["from"]),
		Now:     func() time.Time { return time.Unix(1000, 0) },
		Note:    func(s string) { fmt.Fprintf(&notes, "note %s\n", s) },
		Fetch:   fakeFetch,
	}
	if text, ok := trees[".dockerignore"]; ok {
		if in.Ignore, err = dockerfile.ParseIgnore(".dockerignore", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range planSteps(t, trees["Dockerfile"]) {
		if step.Op == nil {
			continue
		}
		if err = Do(t.Context(), root, step.Op, in); err != nil {
			break
		}
	}
	if err != nil {
		result = txtar.File{Name: "error", Data: []byte(err.Error() + "\n")}
	} else {
		result.Data = []byte(printTree(t, root) + notes.String())
	}
	if got := "-- " + result.Name + " --\n" + string(result.Data); got != want {
		if !*update {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		ar.Files = append(kept, result)
		if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
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
