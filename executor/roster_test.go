package main

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

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
	build := twoCopies(t, host)
	for i, want := range []string{`"hits":0,"misses":2`, `"hits":2,"misses":0`, `"hits":1,"misses":1`, `"hits":2,"misses":0`} {
		if i == 2 {
			deleteEntry(t, host+"/cache", `copy "file" to "/a"`)
		}
		whole(t, build(want))
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
