package main

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kilnhook/kiln/"

// order lists the packages of executor/internal from the bottom up. A package
// imports only packages that stand before it.
var order = strings.Fields("rootfs inflate decompress progress transport telemetry cloud dockerfile source plan snapshot toc layer image cache basecache registry access store sandbox workspace step build")

// only names the packages that may import a module, for modules that not all may.
var only = map[string]string{
	"github.com/moby/buildkit/":                             "dockerfile plan",
	"github.com/moby/buildkit/util/suggest":                 "dockerfile plan step access",
	"github.com/google/go-containerregistry/pkg/v1/remote":  "registry cache transport",
	"github.com/google/go-containerregistry/pkg/v1/tarball": "image",
	"github.com/google/go-containerregistry/pkg/v1/layout":  "image cache",
	"github.com/google/go-containerregistry/pkg/v1/mutate":  "",
	"github.com/google/go-containerregistry/pkg/v1/daemon":  "",
	"github.com/google/go-containerregistry/pkg/authn":      "registry cache",
	"github.com/google/go-containerregistry/pkg/crane":      "",
	"github.com/go-git/":                                    "source",
	"cloud.google.com/":                                     "source registry",
	"github.com/aws/":                                       "source registry",
	"github.com/Azure/":                                     "source registry",
	"k8s.io/":                                               "",
	"knative.dev/":                                          "",
	"github.com/cloudevents":                                "",
	module + "events":                                       "",
	module + "functions":                                    "",
	module + "infra":                                        "",
	"log":                                                   "",
	"log/slog":                                              "source cache registry access store",
	"github.com/sirupsen/":                                  "",
}

func TestImports(t *testing.T) {
	dirs, err := os.ReadDir("internal")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		pkg := d.Name()
		if strings.HasSuffix(pkg, "test") {
			continue // helpers of tests
		}
		at := slices.Index(order, pkg)
		if at < 0 {
			t.Errorf("executor/internal/%s has no place in the order of packages: give it one", pkg)
			continue
		}
		for file, path := range imports(t, filepath.Join("internal", pkg)) {
			checkImport(t, pkg, at, file, path)
		}
	}
	for file, path := range imports(t, "view") {
		if strings.HasPrefix(path, module) && path != module+"executor/internal/progress" {
			t.Errorf("%s imports %s: kiln shows builds with package view, which knows of them what progress says", file, path)
		}
	}
	for file, path := range imports(t, ".") {
		if strings.HasPrefix(path, module+"functions") || strings.HasPrefix(path, module+"infra") {
			t.Errorf("%s imports %s: the executor knows nothing of clusters and buses", file, path)
		}
	}
}

func checkImport(t *testing.T, pkg string, at int, file, path string) {
	t.Helper()
	if rest, ok := strings.CutPrefix(path, module+"executor/internal/"); ok {
		other, _, _ := strings.Cut(rest, "/")
		if i := slices.Index(order, other); i >= at && other != pkg {
			t.Errorf("%s: %s imports %s, which does not stand before it", file, pkg, other)
		}
		return
	}
	best := ""
	for prefix := range only {
		match := path == strings.TrimSuffix(prefix, "/") || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/")
		if match && len(prefix) > len(best) {
			best = prefix
		}
	}
	if best != "" && !slices.Contains(strings.Fields(only[best]), pkg) {
		t.Errorf("%s: %s may not import %s (only %q may)", file, pkg, path, only[best])
	}
}

// imports yields the imports of a package's files, tests left out.
func imports(t *testing.T, dir string) func(yield func(file, path string) bool) {
	t.Helper()
	return func(yield func(file, path string) bool) {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range f.Imports {
				path, err := strconv.Unquote(i.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if !yield(file, path) {
					return
				}
			}
		}
	}
}

// The executor links no library of a cloud: it reads buckets and gets tokens with
// what package cloud has, and stays small.
func TestNoCloudLibraries(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 100 {
		t.Fatalf("only %d packages are linked", len(deps))
	}
	for _, path := range deps {
		for _, library := range []string{"github.com/aws/", "cloud.google.com/go/storage", "cloud.google.com/go/pubsub", "google.golang.org/api", "google.golang.org/grpc"} {
			if strings.HasPrefix(path, library) {
				t.Errorf("the executor links %s", path)
			}
		}
	}
}
