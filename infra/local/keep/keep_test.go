package keep

import (
	"fmt"
	"testing"
	"time"
)

func TestRemove(t *testing.T) {
	now := time.Unix(1795400000, 0)
	item := func(id string, hours int, size int64) Item {
		return Item{ID: id, At: now.Add(-time.Duration(hours) * time.Hour), Size: size}
	}
	items := []Item{item("b", 3, 10), item("a", 5, 10), {ID: "pinned", At: now.Add(-100 * time.Hour), Size: 10, Pinned: true}, item("c", 1, 10), item("empty", 9, 0)}
	for name, tc := range map[string]struct {
		rules Rules
		want  string
	}{
		"everything":   {Rules{}, "[]"},
		"age":          {Rules{Age: 4 * time.Hour}, "[empty a]"},
		"just so old":  {Rules{Age: 5 * time.Hour}, "[empty]"},
		"size":         {Rules{Size: 25}, "[a b]"},
		"enough":       {Rules{Size: 40}, "[]"},
		"pinned alone": {Rules{Size: 5}, "[a b c]"},
		"both":         {Rules{Age: 4 * time.Hour, Size: 25}, "[empty a b]"},
	} {
		ids := []string{}
		for _, i := range Remove(items, tc.rules, now) {
			ids = append(ids, i.ID)
		}
		if got := fmt.Sprint(ids); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
