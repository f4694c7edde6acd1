package ledgertest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

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
