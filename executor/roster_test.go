package main

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/infra/local/registry"
)

// Who deletes an entry from the cache has its step done anew, and no other, whatever
// the last build used.
func TestDeletedEntryIsForgotten(t *testing.T) {
	need.Root(t)
	store, err := registry.Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	srv := httptest.NewServer(store)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	pushLayers(t, host+"/library/base:1")
	dir := t.TempDir()
	for name, content := range map[string]string{"Dockerfile": "FROM " + host + "/library/base:1\nCOPY file /a\nCOPY file /b\n", "file": "content"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{`"cache":{"hits":0,"misses":2}`, `"cache":{"hits":2,"misses":0}`, `"cache":{"hits":1,"misses":1}`, `"cache":{"hits":2,"misses":0}`} {
		if i == 2 {
			deleteEntry(t, host+"/cache", `copy "file" to "/a"`)
		}
		dest, result := fmt.Sprintf("%s/app%d:1", host, i), filepath.Join(t.TempDir(), "result.json")
		out, err := exec.Command("executor", "--context", dir, "--cache", "--cache-copy-layers", "--cache-repo", host+"/cache", "--destination", dest, "--result-file", result).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if said, err := os.ReadFile(result); err != nil || !strings.Contains(string(said), want) {
			t.Errorf("build %d: %s, want %s, %v", i, said, want, err)
		}
		ref, err := name.ParseReference(dest)
		if err != nil {
			t.Fatal(err)
		}
		img, err := remote.Image(ref)
		if err == nil {
			err = validate.Image(img)
		}
		if err != nil {
			t.Errorf("build %d: %v", i, err)
		}
	}
}

// deleteEntry deletes the tag of the step that was written so.
func deleteEntry(t *testing.T, cache, step string) {
	t.Helper()
	repo, err := name.NewRepository(cache)
	if err != nil {
		t.Fatal(err)
	}
	tags, err := remote.List(repo)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		img, err := remote.Image(repo.Tag(tag))
		if err != nil {
			t.Fatal(err)
		}
		cf, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if cf.History[0].CreatedBy == step {
			if err := remote.Delete(repo.Tag(tag)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s has no entry for %s among %q", cache, step, tags)
}
