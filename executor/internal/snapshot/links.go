package snapshot

import (
	"strings"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// record returns what is known of a name, nil if nothing is.
func (x *index) record(name string) *record {
	d := x.dirs[rootfs.Parent(name)]
	if d == nil {
		return nil
	}
	return d.find(name[strings.LastIndexByte(name, '/')+1:])
}

// sharePrints gives every name of a file the print that one of them has: who
// reads files to print them reads each once.
func (x *index) sharePrints() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for stat, names := range x.links {
		var known uint64
		var without []*record
		for _, n := range names {
			switch r := x.record(n); {
			case r == nil || r.stat != stat:
			case r.sum != 0:
				known = r.sum
			default:
				without = append(without, r)
			}
		}
		for _, r := range without {
			r.sum = known
		}
	}
}
