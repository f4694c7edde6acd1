package snapshot

import (
	"cmp"
	"hash/maphash"
	"slices"
)

// learned has the sums of files of which there are no records yet, by hashes of their
// names: of a million files, as extraction tells of them, and in half the room of a map.
// Should two names have one hash, a file that only looks changed may be taken for
// changed: no more than that.
type learned struct {
	seed    maphash.Seed
	buckets [256][]nameSum
}

type nameSum struct{ name, sum uint64 }

func (l *learned) add(name string, sum uint64) {
	h := maphash.String(l.seed, name)
	l.buckets[h>>56] = append(l.buckets[h>>56], nameSum{h, sum})
}

// sort must stand between add and sumOf. Of what was learned twice the later holds.
func (l *learned) sort() {
	for i, b := range l.buckets {
		slices.Reverse(b)
		slices.SortStableFunc(b, func(x, y nameSum) int { return cmp.Compare(x.name, y.name) })
		l.buckets[i] = slices.CompactFunc(b, func(x, y nameSum) bool { return x.name == y.name })
	}
}

// sumOf is what was learned of a name in a directory; 0 for nothing.
func (l *learned) sumOf(dir, name string) uint64 {
	var full maphash.Hash
	full.SetSeed(l.seed)
	if dir != "." {
		_, _ = full.WriteString(dir)
		_ = full.WriteByte('/')
	}
	_, _ = full.WriteString(name)
	h := full.Sum64()
	b := l.buckets[h>>56]
	i, ok := slices.BinarySearchFunc(b, h, func(x nameSum, h uint64) int { return cmp.Compare(x.name, h) })
	if !ok {
		return 0
	}
	return b[i].sum
}
