package snapshot

import (
	"fmt"
	"hash/maphash"
	"testing"
)

// What was learned last holds: a layer may have a file twice, and so may an image.
func TestLearned(t *testing.T) {
	l := &learned{seed: maphash.MakeSeed()}
	for round := range 3 {
		for i := range 5000 {
			l.add(fmt.Sprintf("d/%d", i), uint64(round*10_000+i)) //nolint:gosec // small
		}
	}
	l.add("top", 7)
	l.sort()
	for i := range 5000 {
		if got, want := l.sumOf("d", fmt.Sprint(i)), uint64(20_000+i); got != want { //nolint:gosec // small
			t.Fatalf("d/%d: %d, want %d", i, got, want)
		}
	}
	if l.sumOf(".", "top") != 7 || l.sumOf("d", "top") != 0 || l.sumOf("e", "1") != 0 {
		t.Error("a file has the sum of another, or none")
	}
}
