package launch

import (
	"cmp"
	"slices"
)

// whole is a build for several platforms, as long as one of its parts is here.
type whole struct {
	changed chan struct{} // closed and replaced whenever that of a part is
}

// newBuild makes a build known by its note. The caller holds the Launcher's lock,
// or nobody else has the Launcher yet.
func (l *Launcher) newBuild(note live) *build {
	b := &build{live: note, changed: make(chan struct{})}
	if note.Request.PartOf == "" {
		return b
	}
	if parts := l.partsOf(note.Request.PartOf); len(parts) > 0 {
		b.whole = parts[0].whole
	} else {
		b.whole = &whole{changed: make(chan struct{})}
	}
	return b
}

// partsOf are the parts of a build that have not ended, in the order in which they
// were handed over. The caller holds the lock.
func (l *Launcher) partsOf(id string) []*build {
	var parts []*build
	for _, b := range l.builds {
		if b.Request.PartOf == id {
			parts = append(parts, b)
		}
	}
	slices.SortFunc(parts, func(a, b *build) int { return cmp.Compare(a.Order, b.Order) })
	return parts
}
