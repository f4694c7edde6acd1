package buildlog

import (
	"strings"

	"github.com/kilnhook/kiln/events"
)

// Mark says of a line of one part of a build which platform it is about, so that
// those of several parts are kept apart when they are read as one log: steps have ids
// and names of their own, other text begins with the platform, and no part's result is
// that of the build. Without a platform nothing changes.
func Mark(p *events.Progress, platform string) {
	if platform == "" {
		return
	}
	p.Platform = platform
	if p.ID != "" {
		p.ID = platform + " " + p.ID
	}
	if rest, ok := strings.CutPrefix(p.Name, "["); ok {
		p.Name = "[" + platform + " " + rest
	} else if p.Name != "" {
		p.Name = platform + " " + p.Name
	}
	switch p.Kind {
	case events.ProgressResult:
		p.Kind = events.ProgressNote
		if p.Error != "" {
			p.Text, p.Error = p.Error, ""
		}
		fallthrough
	case events.ProgressNote:
		p.Text = platform + ": " + p.Text
	}
}
