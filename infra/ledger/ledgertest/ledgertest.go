// Package ledgertest is what it means to be a ledger: a suite of tests that
// every store must pass.
package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kilnhook/kiln/infra/ledger"
)

// Store is what is tested.
type Store interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	Create(ctx context.Context, key string, data []byte) (version string, err error)
	Swap(ctx context.Context, key, version string, data []byte) (newVersion string, err error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
}

// Run runs the suite. open returns a new empty store for each test.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, tc := range []struct {
		name string
		test func(t *testing.T, s Store)
	}{
		{"CreateThenGet", createThenGet},
		{"CreateOnlyOnce", createOnlyOnce},
		{"SwapNeedsTheVersion", swapNeedsTheVersion},
		{"SwapOfNothing", swapOfNothing},
		{"DeleteAndCreateAgain", deleteAndCreateAgain},
		{"ValuesAreBytes", valuesAreBytes},
		{"KeysAreChecked", keysAreChecked},
		{"ListIsOrdered", listIsOrdered},
		{"ListPages", listPages},
		{"EndedContext", endedContext},
		{"OneCreatorWins", oneCreatorWins},
		{"SwapsAreNotLost", swapsAreNotLost},
		{"ReadersSeeWholeValues", readersSeeWholeValues},
		{"CreateRacesDelete", createRacesDelete},
		{"AHundredSwap", aHundredSwap},
		{"AHundredCreate", aHundredCreate},
		{"LongLists", longLists},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, open(t)) })
	}
}

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

// The order is that of the bytes of whole keys, in which '-' and '.' come
// before '/', so that a walk by directories alone gets it wrong.
func listIsOrdered(t *testing.T, s Store) {
	keys := []string{"a-b/x", "a.b", "a/b", "a/b-c", "a/b.d/e", "a/c/d", "aa", "b/1", "b/10", "b/2", "b0"}
	for i := range keys {
		mustCreate(t, s, keys[(i*7)%len(keys)], "x")
	}
	if !slices.IsSorted(keys) {
		t.Fatal("the test is wrong")
	}
	for _, tc := range []struct {
		prefix, after string
		limit         int
	}{
		{"", "", 0}, {"a", "", 0}, {"a/", "", 0}, {"a/b", "", 0}, {"b/1", "", 0}, {"zzz", "", 0}, {"a/c/", "", 0},
		{"", "a/b", 0}, {"", "a/b.d/e", 3}, {"a/", "a/b", 0}, {"", "a", 2}, {"", "zzz", 0}, {"b/", "a/z", 2},
		{"a/b", "a/b", 1}, {"", "a/b-", 0}, {"aa", "", 0},
	} {
		var want []string
		for _, key := range keys {
			if strings.HasPrefix(key, tc.prefix) && key > tc.after && (tc.limit == 0 || len(want) < tc.limit) {
				want = append(want, key)
			}
		}
		got, err := s.List(t.Context(), tc.prefix, tc.after, tc.limit)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("list %+v: %q, %v\nwant %q", tc, got, err, want)
		}
	}
}

func listPages(t *testing.T, s Store) {
	var want []string
	for i := range 25 {
		key := fmt.Sprintf("index/%03d/x", i)
		want = append(want, key)
		mustCreate(t, s, key, "")
	}
	var got []string
	after := ""
	for {
		page, err := s.List(t.Context(), "index/", after, 4)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		after = page[len(page)-1]
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages hold %q", got)
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

// Of many that create one key at once exactly one succeeds, and its value is
// the one that is there.
func oneCreatorWins(t *testing.T, s Store) {
	for round := range 20 {
		key := "builds/" + strconv.Itoa(round) + "/result.json"
		var winners atomic.Int32
		var winner atomic.Value
		parallel(16, func(i int) {
			value := "value of " + strconv.Itoa(i)
			_, err := s.Create(t.Context(), key, []byte(value))
			switch {
			case err == nil:
				winners.Add(1)
				winner.Store(value)
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("create: %v", err)
			}
		})
		if n := winners.Load(); n != 1 {
			t.Fatalf("%d creators of one key succeeded", n)
		}
		if got := mustGet(t, s, key); got != winner.Load() {
			t.Fatalf("value is %q, the winner wrote %q", got, winner.Load())
		}
	}
}

// Counting with Swap from many goroutines counts every step.
func swapsAreNotLost(t *testing.T, s Store) {
	const workers, steps = 8, 25
	parallel(workers, func(int) {
		for range steps {
			if err := Increment(t.Context(), s, "counter"); err != nil {
				t.Error(err)
			}
		}
	})
	if got, want := mustGet(t, s, "counter"), strconv.Itoa(workers*steps); got != want {
		t.Errorf("counted to %s, want %s", got, want)
	}
}

// Of a hundred that swap one version exactly one succeeds, and the others are
// told that it was changed.
func aHundredSwap(t *testing.T, s Store) {
	version := mustCreate(t, s, "refs/t/h.json", "before")
	var winners atomic.Int32
	var winner atomic.Value
	parallel(100, func(i int) {
		value := "value of " + strconv.Itoa(i)
		_, err := s.Swap(t.Context(), "refs/t/h.json", version, []byte(value))
		switch {
		case err == nil:
			winners.Add(1)
			winner.Store(value)
		case !errors.Is(err, ledger.ErrConflict):
			t.Errorf("swap: %v", err)
		}
	})
	if n := winners.Load(); n != 1 {
		t.Fatalf("%d swaps of one version succeeded", n)
	}
	if got := mustGet(t, s, "refs/t/h.json"); got != winner.Load() {
		t.Errorf("value is %q, the winner wrote %q", got, winner.Load())
	}
}

// Of a hundred that create a key exactly one succeeds.
func aHundredCreate(t *testing.T, s Store) {
	var winners atomic.Int32
	parallel(100, func(i int) {
		switch _, err := s.Create(t.Context(), "builds/x/result.json", []byte(strconv.Itoa(i))); {
		case err == nil:
			winners.Add(1)
		case !errors.Is(err, fs.ErrExist):
			t.Errorf("create: %v", err)
		}
	})
	if n := winners.Load(); n != 1 {
		t.Fatalf("%d creators of one key succeeded", n)
	}
}

// A list is whole though a server gives at most a thousand keys at a time.
func longLists(t *testing.T, s Store) {
	const keys, workers = 1100, 8
	parallel(workers, func(i int) {
		for n := i; n < keys; n += workers {
			if _, err := s.Create(t.Context(), fmt.Sprintf("index/%04d", n), []byte("x")); err != nil {
				t.Errorf("create: %v", err)
				return
			}
		}
	})
	for _, tc := range []struct {
		after             string
		limit, want       int
		first, wantLatest string
	}{
		{"", 0, keys, "index/0000", "index/1099"},
		{"", 1050, 1050, "index/0000", "index/1049"},
		{"index/0010", 1050, 1050, "index/0011", "index/1060"},
		{"index/0999", 0, 100, "index/1000", "index/1099"},
	} {
		got, err := s.List(t.Context(), "index/", tc.after, tc.limit)
		if err != nil || len(got) != tc.want || !slices.IsSorted(got) || got[0] != tc.first || got[len(got)-1] != tc.wantLatest {
			t.Errorf("list %+v: %d keys, %v", tc, len(got), err)
		}
	}
}

// Increment adds one to the decimal number under a key, starting from nothing,
// as a user of Get and Swap would.
func Increment(ctx context.Context, s Store, key string) error {
	for {
		data, version, err := s.Get(ctx, key)
		n := 0
		switch {
		case errors.Is(err, fs.ErrNotExist):
			version = ""
		case err != nil:
			return err
		default:
			if n, err = strconv.Atoi(string(data)); err != nil {
				return fmt.Errorf("counter holds %q: %w", data, err)
			}
		}
		_, err = s.Swap(ctx, key, version, []byte(strconv.Itoa(n+1)))
		if !errors.Is(err, ledger.ErrConflict) {
			return err
		}
	}
}

// While a value is replaced, a reader sees the old or the new one and never a
// part, a mixture or nothing.
func readersSeeWholeValues(t *testing.T, s Store) {
	value := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, 64<<10) }
	version, err := s.Create(t.Context(), "k", value(0))
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	parallel(4, func(i int) {
		if i == 0 {
			defer done.Store(true)
			for n := 1; n < 50; n++ {
				if version, err = s.Swap(t.Context(), "k", version, value(n)); err != nil {
					t.Error(err)
					return
				}
			}
			return
		}
		for !done.Load() {
			data, _, err := s.Get(t.Context(), "k")
			if err != nil {
				t.Error(err)
				return
			}
			if len(data) != 64<<10 || !bytes.Equal(data, bytes.Repeat(data[:1], len(data))) {
				t.Errorf("read a torn value of %d bytes", len(data))
				return
			}
		}
	})
}

// Creating and deleting the only key of a directory at once never fails for
// the creators.
func createRacesDelete(t *testing.T, s Store) {
	parallel(4, func(i int) {
		for n := range 50 {
			key := "open/group/" + strconv.Itoa(i)
			if _, err := s.Create(t.Context(), key, []byte{byte(n)}); err != nil {
				t.Errorf("create: %v", err)
				return
			}
			if err := s.Delete(t.Context(), key); err != nil {
				t.Errorf("delete: %v", err)
				return
			}
		}
	})
	if keys, err := s.List(t.Context(), "", "", 0); err != nil || len(keys) != 0 {
		t.Errorf("left over: %q, %v", keys, err)
	}
}

// parallel runs f(0) to f(n-1) at once and waits for all.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

func mustCreate(t *testing.T, s Store, key, value string) (version string) {
	t.Helper()
	version, err := s.Create(t.Context(), key, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func mustGet(t *testing.T, s Store, key string) string {
	t.Helper()
	data, _, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
