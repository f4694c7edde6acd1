package ledgertest

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/infra/ledger"
)

func createThenGet(t *testing.T, s Store) {
	ctx := t.Context()
	if _, _, err := s.Get(ctx, "builds/x/request.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("get of nothing: %v, want fs.ErrNotExist", err)
	}
	v1, err := s.Create(ctx, "builds/x/request.json", []byte("one"))
	if err != nil || v1 == "" {
		t.Fatalf("create: version %q, %v", v1, err)
	}
	data, v2, err := s.Get(ctx, "builds/x/request.json")
	if err != nil || string(data) != "one" || v2 != v1 {
		t.Fatalf("get: %q, version %q, %v; created with version %q", data, v2, err, v1)
	}
	if _, _, err := s.Get(ctx, "builds/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of a prefix: %v, want fs.ErrNotExist", err)
	}
	if _, _, err := s.Get(ctx, "builds/x/request.json/below"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get below a value: %v, want fs.ErrNotExist", err)
	}
}

func createOnlyOnce(t *testing.T, s Store) {
	ctx := t.Context()
	mustCreate(t, s, "k", "one")
	if _, err := s.Create(ctx, "k", []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second create: %v, want fs.ErrExist", err)
	}
	if got := mustGet(t, s, "k"); got != "one" {
		t.Errorf("value is %q after a refused create", got)
	}
}

func swapNeedsTheVersion(t *testing.T, s Store) {
	ctx := t.Context()
	v1 := mustCreate(t, s, "refs/t/h.json", "one")
	v2, err := s.Swap(ctx, "refs/t/h.json", v1, []byte("two"))
	if err != nil {
		t.Fatal(err)
	}
	if v2 == v1 {
		t.Error("another value has the same version")
	}
	for _, stale := range []string{v1, "", "nonsense"} {
		if _, err := s.Swap(ctx, "refs/t/h.json", stale, []byte("three")); !errors.Is(err, ledger.ErrConflict) {
			t.Errorf("swap with version %q: %v, want ErrConflict", stale, err)
		}
	}
	if got := mustGet(t, s, "refs/t/h.json"); got != "two" {
		t.Errorf("value is %q", got)
	}
	if _, err := s.Swap(ctx, "refs/t/h.json", v2, []byte("three")); err != nil {
		t.Errorf("swap with the version that swap returned: %v", err)
	}
}

func swapOfNothing(t *testing.T, s Store) {
	ctx := t.Context()
	if _, err := s.Swap(ctx, "k", "abc", []byte("x")); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("swap of a missing key with a version: %v, want ErrConflict", err)
	}
	if _, err := s.Swap(ctx, "k", "", []byte("x")); err != nil {
		t.Errorf("swap of a missing key without a version: %v", err)
	}
	if got := mustGet(t, s, "k"); got != "x" {
		t.Errorf("value is %q", got)
	}
}

func deleteAndCreateAgain(t *testing.T, s Store) {
	ctx := t.Context()
	v := mustCreate(t, s, "a/b/c", "one")
	mustCreate(t, s, "a/d", "kept")
	for range 2 { // the second time there is nothing
		if err := s.Delete(ctx, "a/b/c"); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Get(ctx, "a/b/c"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get after delete: %v, want fs.ErrNotExist", err)
	}
	if _, err := s.Swap(ctx, "a/b/c", v, []byte("x")); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("swap after delete: %v, want ErrConflict", err)
	}
	if err := s.Delete(ctx, "a"); err != nil {
		t.Errorf("delete of a prefix: %v", err)
	}
	if got := mustGet(t, s, "a/d"); got != "kept" {
		t.Errorf("deleting a prefix touched the value below: %q", got)
	}
	mustCreate(t, s, "a/b/c", "two")
}

func valuesAreBytes(t *testing.T, s Store) {
	for i, value := range []string{"", "\x00\xff\n", strings.Repeat("x", 1<<20)} {
		key := "v/" + strconv.Itoa(i)
		mustCreate(t, s, key, value)
		if got := mustGet(t, s, key); got != value {
			t.Errorf("a value of %d bytes came back as %d bytes", len(value), len(got))
		}
	}
	in := []byte("mine")
	if _, err := s.Create(t.Context(), "v/own", in); err != nil {
		t.Fatal(err)
	}
	in[0] = 'X'
	out, _, err := s.Get(t.Context(), "v/own")
	if err != nil || string(out) != "mine" {
		t.Fatalf("value %q, %v: the store kept the caller's slice", out, err)
	}
	out[0] = 'X'
	if got := mustGet(t, s, "v/own"); got != "mine" {
		t.Error("the store gave out its own slice")
	}
	if _, err := s.Create(t.Context(), "v/huge", make([]byte, ledger.MaxValue+1)); err == nil {
		t.Error("a value larger than MaxValue was accepted")
	}
}

func keysAreChecked(t *testing.T, s Store) {
	ctx := t.Context()
	for _, key := range []string{
		"", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "a//b", "a/", "./a", "a/./b",
		".lock/00", ".tmp/x", "a/.hidden", "a b", "a\x00b", "a\\b", "é", "a\nb", "a:b", "*",
		strings.Repeat("x", ledger.MaxSegment+1), strings.Repeat("x/", ledger.MaxKey/2) + "xx",
	} {
		_, _, getErr := s.Get(ctx, key)
		_, createErr := s.Create(ctx, key, nil)
		_, swapErr := s.Swap(ctx, key, "v", nil)
		for call, err := range map[string]error{"get": getErr, "create": createErr, "swap": swapErr, "delete": s.Delete(ctx, key)} {
			if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, ledger.ErrConflict) {
				t.Errorf("%s of key %q: %v, want it refused", call, key, err)
			}
		}
		if key == "" {
			continue // lists everything
		}
		if _, err := s.List(ctx, key, "", 0); err == nil && key != "a/" {
			t.Errorf("list of prefix %q was not refused", key)
		}
	}
	for _, key := range []string{"a", "index/09223370431454775807-o9279ihk7gifcp87vrmnsrj2b4", "A-Z_0.=+@~,z/y"} {
		mustCreate(t, s, key, "x")
	}
}

func endedContext(t *testing.T, s Store) {
	why := errors.New("the caller went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	mustCreate(t, s, "k", "one")
	_, _, getErr := s.Get(ctx, "k")
	_, createErr := s.Create(ctx, "k2", nil)
	_, swapErr := s.Swap(ctx, "k", "v", nil)
	_, listErr := s.List(ctx, "", "", 0)
	for call, err := range map[string]error{"get": getErr, "create": createErr, "swap": swapErr, "list": listErr, "delete": s.Delete(ctx, "k")} {
		if !errors.Is(err, why) {
			t.Errorf("%s with an ended context: %v, want its cause", call, err)
		}
	}
	if got := mustGet(t, s, "k"); got != "one" {
		t.Errorf("value is %q", got)
	}
}
