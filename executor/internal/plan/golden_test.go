package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/tools/txtar"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
)

var update = flag.Bool("update", false, "rewrite the plans in testdata")

// Every file of testdata holds a Dockerfile, options (lines of "arg K=V",
// "label K=V", "target T", "platform P", "build-platform P", "all",
// "context NAME=IMAGE", "context NAME"), configs of base
// images ("base REF" as JSON), an ignore file, and the plan or the error that
// these must give. See BuildKit's dockerfile2llb for what is expected.
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
	var kept []txtar.File
	want, file, opt := "", "", Options{Args: map[string]string{}, Labels: map[string]string{}}
	bases := map[string]string{}
	for _, f := range ar.Files {
		kind, ref, _ := strings.Cut(f.Name, " ")
		switch kind {
		case "Dockerfile":
			file = string(f.Data)
		case "options":
			readOptions(t, string(f.Data), &opt)
		case "base":
			bases[ref] = string(f.Data)
		case ".dockerignore":
			if opt.Ignore, err = dockerfile.ParseIgnore(f.Name, f.Data); err != nil {
				t.Fatal(err)
			}
		case "plan", "error":
			want = "-- " + f.Name + " --\n" + string(f.Data)
			continue
		default:
			t.Fatalf("what is %s?", f.Name)
		}
		kept = append(kept, f)
	}
	opt.Base = fakeBase(bases)
	if opt.BuildPlatform.OS == "" {
		opt.BuildPlatform = v1.Platform{OS: "linux", Architecture: "amd64"}
	}
	result := txtar.File{Name: "plan"}
	f, err := dockerfile.Parse("Dockerfile", []byte(file))
	var p *Plan
	if err == nil {
		p, err = New(f, opt)
	}
	if err != nil {
		result = txtar.File{Name: "error", Data: []byte(err.Error() + "\n")}
	} else {
		result.Data = []byte(p.String())
		again, err := New(f, opt)
		if err != nil || again.String() != p.String() {
			t.Errorf("planning twice gives two plans: %v", err)
		}
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

func readOptions(t *testing.T, text string, opt *Options) {
	t.Helper()
	for line := range strings.Lines(text) {
		kind, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		k, v, _ := strings.Cut(value, "=")
		var err error
		switch kind {
		case "arg":
			opt.Args[k] = v
		case "label":
			opt.Labels[k] = v
		case "target":
			opt.Target = value
		case "all":
			opt.AllStages = true
		case "context":
			if opt.Contexts == nil {
				opt.Contexts = map[string]NamedContext{}
			}
			opt.Contexts[k] = NamedContext{Image: v}
		case "platform":
			opt.Platform, err = ParsePlatform(value)
		case "build-platform":
			opt.BuildPlatform, err = ParsePlatform(value)
		default:
			t.Fatalf("unknown option %q", line)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// fakeBase knows the images of a golden file. Others have an empty config,
// except names with "missing" in them.
func fakeBase(configs map[string]string) func(string, v1.Platform) (Base, error) {
	return func(ref string, p v1.Platform) (Base, error) {
		if strings.Contains(ref, "missing") {
			return Base{}, errors.New("no such image")
		}
		c := &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
		if text, ok := configs[ref]; ok {
			var err error
			if c, err = v1.ParseConfigFile(strings.NewReader(text)); err != nil {
				return Base{}, fmt.Errorf("config of %s: %w", ref, err)
			}
		}
		sum := sha256.Sum256([]byte(ref + platformName(p)))
		return Base{Config: c, Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])[:12]}}, nil
	}
}
