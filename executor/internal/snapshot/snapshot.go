// Package snapshot says what changed in a root filesystem since it last
// looked.
//
// There are two ways to know. [Upper] reads the upper directory of an overlay
// mount, which holds what changed and nothing else. [Walk] keeps an index of
// the whole tree and compares it by lstat, trusting ctime: a process can set
// a file's mtime back, but not its ctime.
package snapshot

import (
	"slices"
	"strings"
)

// Change is a path that is not as it was.
type Change struct {
	Name    string // clean name, see package rootfs
	Deleted bool   // the file is gone; otherwise it is new or modified
}

// sortChanges orders changes by name, component by component, so that a
// directory stands before everything below it.
func sortChanges(changes []Change) {
	slices.SortFunc(changes, func(a, b Change) int { return ComparePaths(a.Name, b.Name) })
}

// Merge returns the union of two sorted lists of changes; of a name that is in
// both, the second says what became of it.
func Merge(a, b []Change) []Change {
	if len(a) == 0 {
		return b
	}
	last := map[string]bool{}
	for _, c := range b {
		last[c.Name] = true
	}
	for _, c := range a {
		if !last[c.Name] {
			b = append(b, c)
		}
	}
	sortChanges(b)
	return b
}

// ComparePaths orders names as a walk visits them: parents before children and
// siblings in byte order.
func ComparePaths(a, b string) int {
	for {
		ah, at, am := strings.Cut(a, "/")
		bh, bt, bm := strings.Cut(b, "/")
		if c := strings.Compare(ah, bh); c != 0 {
			return c
		}
		switch {
		case !am && !bm:
			return 0
		case !am:
			return -1
		case !bm:
			return 1
		}
		a, b = at, bt
	}
}
