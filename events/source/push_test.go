package source_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/events/source"
)

// A list of files counts only if it is whole.
func TestPushFiles(t *testing.T) {
	commit := func(files ...string) source.Commit { return source.Commit{Modified: files} }
	many := make([]string, 501)
	for i := range many {
		many[i] = strings.Repeat("x", i%7+1) + string(rune('a'+i%26)) + strings.Repeat("y", i/26)
	}
	for name, tc := range map[string]struct {
		commits  []source.Commit
		complete bool
		want     []string
	}{
		"one":      {[]source.Commit{{Added: []string{"a"}, Modified: []string{"b"}, Removed: []string{"c"}}}, true, []string{"a", "b", "c"}},
		"repeated": {[]source.Commit{commit("a"), commit("a", "b")}, true, []string{"a", "b"}},
		"cut":      {[]source.Commit{commit("a")}, false, nil},
		"none":     {nil, true, nil},
		"a merge":  {[]source.Commit{commit("a"), commit()}, true, nil},
		"too many": {[]source.Commit{commit(many...)}, true, nil},
		"too long": {[]source.Commit{commit(strings.Repeat("z", 17<<10))}, true, nil},
	} {
		if got := source.PushFiles(tc.commits, tc.complete); !slices.Equal(got, tc.want) || (got == nil) != (tc.want == nil) {
			t.Errorf("%s: %d files %q", name, len(got), got)
		}
	}
}
