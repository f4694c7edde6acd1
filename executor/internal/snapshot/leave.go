package snapshot

import "github.com/kilnhook/kiln/executor/internal/rootfs"

// leave are the names that a walk ignores, with everything below them.
type leave struct {
	names map[string]bool
	above map[string]bool // directories that one of them is in
}

func newLeave(names []string) leave {
	l := leave{names: map[string]bool{}, above: map[string]bool{}}
	for _, n := range names {
		n = rootfs.Clean(n)
		l.names[n] = true
		l.above[rootfs.Parent(n)] = true
	}
	return l
}

// skip tells whether a name is ignored.
func (l leave) skip(name string) bool {
	for ; name != "."; name = rootfs.Parent(name) {
		if l.names[name] {
			return true
		}
	}
	return false
}

// child tells whether a name in a directory that is not ignored is. Most directories
// hold no such name, and for them it costs nothing.
func (l leave) child(dir string, name []byte) bool {
	return l.above[dir] && l.names[rootfs.Join(dir, string(name))]
}
