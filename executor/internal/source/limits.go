package source

import "fmt"

// Limits of what a context unpacks to. A zero is the default, a negative
// number no limit.
type Limits struct {
	// Bytes is the sum of the sizes of all files; default 100 GiB.
	Bytes int64
	// Entries is the number of files, directories and links; default 5
	// million.
	Entries int64
	// Ratio is how many times larger than the archive its files may be, once
	// there are more than 256 MiB of them; default 1100, a little more than
	// gzip can reach.
	Ratio int64
}

// ratioGrace is how many bytes may be unpacked before Limits.Ratio counts.
const ratioGrace = 256 << 20

func (l *Limits) applyDefaults() {
	if l.Bytes == 0 {
		l.Bytes = 100 << 30
	}
	if l.Entries == 0 {
		l.Entries = 5_000_000
	}
	if l.Ratio == 0 {
		l.Ratio = 1100
	}
}

// LimitError is the error of a context that exceeds one of its Limits.
type LimitError struct {
	What  string // "bytes unpacked", "entries" or "times its compressed size"
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("too large: more than %d %s", e.Limit, e.What)
}

// budget is what is left of the limits.
type budget struct {
	limits     Limits
	bytes      int64 // written
	entries    int64 // made
	compressed func() int64
}

// entry takes one entry.
func (b *budget) entry() error {
	b.entries++
	if b.limits.Entries > 0 && b.entries > b.limits.Entries {
		return &LimitError{What: "entries", Limit: b.limits.Entries}
	}
	return nil
}

// take takes n bytes.
func (b *budget) take(n int) error {
	b.bytes += int64(n)
	if b.limits.Bytes > 0 && b.bytes > b.limits.Bytes {
		return &LimitError{What: "bytes unpacked", Limit: b.limits.Bytes}
	}
	if b.limits.Ratio > 0 && b.compressed != nil && b.bytes > ratioGrace && b.bytes/b.limits.Ratio > b.compressed() {
		return &LimitError{What: "times its compressed size", Limit: b.limits.Ratio}
	}
	return nil
}
