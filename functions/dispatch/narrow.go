package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/gitremote"
)

// maxNarrowing is the size of the largest narrowing file that is read, in bytes.
const maxNarrowing = 64 << 10

// Repositories answers questions about repositories by their locations
// ("host/path"). *gitremote.Client does.
type Repositories interface {
	// Refs lists the branches and tags by their full names.
	Refs(ctx context.Context, location string) (map[string]gitremote.Ref, error)
	// Changed lists the files that differ between two commits.
	Changed(ctx context.Context, location, from, to string) ([]string, error)
	// ReadFile reads a file of a commit of at most limit bytes. The error wraps
	// fs.ErrNotExist if there is none.
	ReadFile(ctx context.Context, location, commit, path string, limit int) ([]byte, error)
}

// narrow applies to a change what needs a look into the repository: the path
// filter of the trigger, and the file in the repository that may narrow it.
// skipped says why the change is not to be built, if it is not. What cannot be
// had from the repository keeps no change from being built, except the
// narrowing file: it is asked for again.
func (d *Dispatcher) narrow(ctx context.Context, m trigger.Match, reg *record.Register) (narrowed trigger.Match, skipped string, err error) {
	n, err := d.narrowing(ctx, m)
	if err != nil {
		if fault, ok := errors.AsType[*trigger.Error](err); ok {
			m.Err = fault
			return m, "", nil
		}
		return m, "", err
	}
	var files []string // nil: not known, or nothing to compare with
	if m.NeedsFiles() || n.NeedsFiles() {
		files = d.files(ctx, m.Request.Change, reg)
	}
	if files != nil && m.NeedsFiles() {
		if _, ok := m.MatchesFiles(files); !ok {
			return m, fmt.Sprintf("no file that on.git.paths names was touched (%s); %d others were", m.Filters(), len(files)), nil
		}
	}
	narrowed, skipped, err = n.Apply(m, files)
	if err != nil {
		m.Err = err
		return m, "", nil //nolint:nilerr // the build ends with it, for its author to see
	}
	return narrowed, skipped, nil
}

// narrowing reads the file in the repository that may narrow a match; its zero
// value if there is none.
func (d *Dispatcher) narrowing(ctx context.Context, m trigger.Match) (trigger.Narrowing, error) {
	c := m.Request.Change
	name := m.NarrowedBy()
	if name == "" || c.Kind != events.KindGit {
		return trigger.Narrowing{}, nil
	}
	if d.cfg.Repositories == nil {
		return trigger.Narrowing{}, &trigger.Error{File: name, Text: "this installation cannot read files of repositories, which on.git.narrowedBy needs"}
	}
	data, err := d.cfg.Repositories.ReadFile(ctx, c.Location, c.Revision(), name, maxNarrowing)
	if errors.Is(err, fs.ErrNotExist) {
		return trigger.Narrowing{}, nil
	}
	if err != nil {
		return trigger.Narrowing{}, err
	}
	return trigger.ParseNarrowing(name, data)
}

// files are those that differ between what the register has seen and a change;
// nil if there is nothing to compare with or nobody knows.
func (d *Dispatcher) files(ctx context.Context, c events.Change, reg *record.Register) []string {
	if reg == nil || reg.Head == "" {
		return nil // the first push of a ref is always built
	}
	if d.cfg.Repositories != nil {
		files, err := d.cfg.Repositories.Changed(ctx, c.Location, reg.Head, c.Revision())
		if err == nil {
			return files
		}
		d.cfg.Log.Warn("compare commits for a path filter", "repository", c.Location, "ref", c.Name, "err", err)
	}
	if c.Before == reg.Head {
		return c.Files
	}
	return nil
}
