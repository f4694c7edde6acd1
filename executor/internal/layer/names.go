package layer

import (
	"hash/maphash"
	"slices"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// nameSet is a set of names that is asked little and may have a million members. Of each
// it keeps a hash of 64 bits, keyed anew for each set: a map of names takes ten times
// that. That a name is taken for another one is as likely as that memory is at fault.
type nameSet struct {
	seed    maphash.Seed
	last    string // directory of the name that was added last
	buckets [256][]uint64
}

func newNameSet() *nameSet { return &nameSet{seed: maphash.MakeSeed()} }

func (s *nameSet) has(name string) bool {
	h := maphash.String(s.seed, name)
	return slices.Contains(s.buckets[h>>56], h)
}

// add adds a name and the directories above it.
func (s *nameSet) add(name string) {
	s.put(name)
	dir := rootfs.Parent(name)
	if dir == s.last {
		return
	}
	s.last = dir
	for ; dir != "." && !s.has(dir); dir = rootfs.Parent(dir) {
		s.put(dir)
	}
}

func (s *nameSet) put(name string) {
	h := maphash.String(s.seed, name)
	s.buckets[h>>56] = append(s.buckets[h>>56], h)
}
