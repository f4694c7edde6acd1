package trigger

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kilnhook/kiln/events"
)

// Check is one condition of a source, and how a change met it.
type Check struct {
	Field string `json:"field"`          // "on.git.refs"
	Want  string `json:"want"`           // what the trigger says
	Got   string `json:"got"`            // what the change brings
	OK    bool   `json:"ok"`             // whether they agree
	Note  string `json:"note,omitempty"` // what decides besides, for people
}

// Check compares a change with the source, field by field. The source listens
// to the change if every check is OK. Path filters are not among them: they
// need the files of the change, see Match.
func (s Source) Check(c events.Change) []Check {
	kind := Check{Field: "on", Want: s.kind(), Got: c.Kind, OK: s.kind() == c.Kind}
	if !kind.OK {
		return []Check{kind}
	}
	switch {
	case s.Git != nil:
		refs := "all branches and tags"
		if len(s.Git.Refs) > 0 {
			refs = strings.Join(s.Git.Refs, ", ")
		}
		return []Check{
			{Field: "on.git.repo", Want: s.Git.Repo, Got: c.Location, OK: glob(s.Git.Repo, c.Location)},
			{Field: "on.git.refs", Want: refs, Got: c.Name, OK: s.Git.matchesRef(c.Name)},
		}
	case s.Object != nil:
		return s.Object.check(c)
	case s.Base != nil:
		image := c.Location + ":" + c.Name
		return []Check{{Field: "on.base.images", Want: s.Base.String(), Got: image, OK: s.Base.matches(image)}}
	}
	return []Check{kind}
}

// kind is the kind of change that the source listens to; a schedule's is none.
func (s Source) kind() string {
	switch {
	case s.Git != nil:
		return events.KindGit
	case s.Object != nil:
		return events.KindObject
	case s.Base != nil:
		return events.KindImage
	}
	return "schedule"
}

func (o *Object) check(c events.Change) []Check {
	checks := []Check{{Field: "on.object.bucket", Want: o.Bucket, Got: c.Location, OK: o.matchesBucket(c.Location)}}
	if o.Prefix != "" {
		checks = append(checks, Check{Field: "on.object.prefix", Want: o.Prefix, Got: c.Name, OK: strings.HasPrefix(c.Name, o.Prefix)})
	}
	if o.Suffix != "" {
		fits := strings.HasSuffix(c.Name, o.Suffix) && len(c.Name) >= len(o.Prefix)+len(o.Suffix)
		checks = append(checks, Check{Field: "on.object.suffix", Want: o.Suffix, Got: c.Name, OK: fits})
	}
	for _, key := range slices.Sorted(maps.Keys(o.Metadata)) {
		got, there := metadata(c, key)
		checks = append(checks, Check{
			Field: "on.object.metadata." + key, Want: o.Metadata[key], Got: got, OK: there && glob(o.Metadata[key], got),
		})
	}
	return checks
}

// metadata finds a value by a name in lower case: buckets differ in the case
// that they keep.
func metadata(c events.Change, key string) (value string, found bool) {
	for name, v := range c.Metadata {
		if strings.EqualFold(name, key) {
			return v, true
		}
	}
	return "", false
}

// NeedsFiles reports whether a path filter decides on the match: every source
// that matched has one. The first push of a ref has nothing to compare with
// and is always built.
func (m Match) NeedsFiles() bool {
	c := m.Request.Change
	if c.Kind != events.KindGit || c.Deleted() {
		return false
	}
	return len(m.By) > 0 && !slices.ContainsFunc(m.By, func(s Source) bool { return s.Git == nil || !s.Git.filters() })
}

// MatchesFiles reports whether the path filter of a source lets a change
// through that touched these files, and which of them did it.
func (m Match) MatchesFiles(files []string) (file string, ok bool) {
	for _, s := range m.By {
		if s.Git == nil || !s.Git.filters() {
			return "", true
		}
		for _, f := range files {
			if anyGlob(s.Git.Paths, f) || anyGlob(s.Git.ExtraPaths, f) {
				return f, true
			}
		}
	}
	return "", false
}

// Filters are the path filters of a match, for people.
func (m Match) Filters() string {
	var all []string
	for _, s := range m.By {
		if s.Git != nil {
			all = append(append(all, s.Git.Paths...), s.Git.ExtraPaths...)
		}
	}
	return strings.Join(all, ", ")
}

// NarrowedBy is the file that may narrow the match; "" if there is none.
func (m Match) NarrowedBy() string {
	for _, s := range m.By {
		if s.Git != nil && s.Git.NarrowedBy != "" {
			return s.Git.NarrowedBy
		}
	}
	return ""
}

// EveryGeneration reports whether also late uploads are built.
func (m Match) EveryGeneration() bool {
	return slices.ContainsFunc(m.By, func(s Source) bool { return s.Object != nil && s.Object.EveryGeneration })
}

func (g *Git) filters() bool { return len(g.Paths)+len(g.ExtraPaths) > 0 }

// anyGlob applies patterns in order; the last that matches decides.
func anyGlob(patterns []string, name string) bool {
	matched := false
	for _, p := range patterns {
		p, not := strings.CutPrefix(p, "!")
		if glob(p, name) || strings.HasSuffix(p, "/") && strings.HasPrefix(name, p) {
			matched = !not
		}
	}
	return matched
}

// Explanation says what a trigger thinks of a change.
type Explanation struct {
	Trigger string    `json:"trigger"`
	Line    int       `json:"line"`
	Matched bool      `json:"matched"`
	Reason  string    `json:"reason,omitempty"` // why not, where no field says it
	Sources [][]Check `json:"sources"`          // one list for each of the trigger's sources
	Match   *Match    `json:"-"`                // if it matched
}

// Explain says of every trigger, in order, whether it is for a change and why
// not, field by field.
func (s Set) Explain(c events.Change) []Explanation {
	matches := map[string]Match{}
	for _, m := range s.Match(c) {
		matches[m.Trigger.Name] = m
	}
	var all []Explanation
	for _, t := range s.triggers {
		e := Explanation{Trigger: t.Name, Line: t.Line, Sources: [][]Check{}}
		for _, src := range t.On {
			e.Sources = append(e.Sources, src.Check(c))
		}
		if m, ok := matches[t.Name]; ok {
			e.Matched, e.Match = true, &m
		}
		if !t.meant(c) {
			e.Reason = fmt.Sprintf("the object's metadata %s names the trigger %s", MetaTrigger, c.Metadata[MetaTrigger])
		}
		all = append(all, e)
	}
	return all
}
