// Package keep decides what of old things is removed. It is pure.
package keep

import (
	"cmp"
	"slices"
	"time"
)

// Item is something that takes space.
type Item struct {
	ID     string
	At     time.Time // when it was last of use
	Size   int64     // bytes
	Pinned bool      // in use: never removed, and its size counts
}

// Rules say what is kept. Zero values keep everything.
type Rules struct {
	Age  time.Duration // what is older is removed
	Size int64         // bytes: beyond, the oldest is removed until the rest fits
}

// Remove returns what is to be removed, oldest first.
func Remove(items []Item, rules Rules, now time.Time) []Item {
	items = slices.Clone(items)
	slices.SortStableFunc(items, func(a, b Item) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
	var total int64
	for _, i := range items {
		total += i.Size
	}
	var remove []Item
	for _, i := range items {
		tooOld := rules.Age > 0 && now.Sub(i.At) > rules.Age
		tooMuch := rules.Size > 0 && total > rules.Size && i.Size > 0
		if i.Pinned || !tooOld && !tooMuch {
			continue
		}
		remove = append(remove, i)
		total -= i.Size
	}
	return remove
}
