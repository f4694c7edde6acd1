package buildlog

import (
	"fmt"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
)

// Short abbreviates a build id.
func Short(id string) string { return id[:min(len(id), 10)] }

// Source says in a few words what a build was started by.
func Source(c events.Change) string {
	if c.Kind != events.KindGit {
		return strings.TrimPrefix(c.Location, "kiln://") + "/" + c.Name
	}
	rev := c.Revision()
	return c.Location + " " + Ref(c.Name) + " " + rev[:min(len(rev), 10)]
}

// Ref is the name of a branch or tag without what all have before it.
func Ref(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "refs/heads/"), "refs/tags/")
}

// Ago says how long before now a time was.
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := now.Sub(t)
	switch {
	case d < 10*time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}

// Count is a number of things, as people write it: 1 file, 2 files.
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
