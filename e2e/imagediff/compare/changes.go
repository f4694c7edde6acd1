package compare

import "slices"

// Change is one path of an image that is not as in the image that it stands on.
type Change struct {
	Path  string
	File  *File    // nil if the path is gone
	Names []string // all names of the file, if it has several
}

// Changes returns what differs from the known image with the most layers that
// is the lowest part of this one, by path; without one that is everything.
// Modification times alone are no change.
func (t *Tree) Changes() []Change {
	base := map[string]*File{}
	if t.base != nil {
		base = t.base.files()
	}
	all := t.files()
	names := groups(all, all)
	old := groups(base, base)
	var out []Change
	for _, p := range paths(base, all) {
		was, is := base[p], all[p]
		switch {
		case is == nil:
			out = append(out, Change{Path: p})
		case was == nil || len(compareFiles(was, is, Options{})) > 0 || !slices.Equal(names[p], old[p]):
			c := Change{Path: p, File: is}
			if len(names[p]) > 1 {
				c.Names = names[p]
			}
			out = append(out, c)
		}
	}
	return out
}
