package layer

import (
	"hash/maphash"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// nameSet is a set of names, of which it keeps hashes of 64 bits, keyed anew for each
// set: a layer may have a million files, and names would take a hundred bytes each. That
// a name is taken for one of them is as likely as a broken memory.
type nameSet struct {
	seed   maphash.Seed
	hashes map[uint64]struct{}
}

func newNameSet() *nameSet {
	return &nameSet{seed: maphash.MakeSeed(), hashes: map[uint64]struct{}{}}
}

func (s *nameSet) has(name string) bool {
	_, ok := s.hashes[maphash.String(s.seed, name)]
	return ok
}

// add adds a name and the directories above it.
func (s *nameSet) add(name string) {
	for ; name != "."; name = rootfs.Parent(name) {
		h := maphash.String(s.seed, name)
		if _, ok := s.hashes[h]; ok {
			return
		}
		s.hashes[h] = struct{}{}
	}
}
