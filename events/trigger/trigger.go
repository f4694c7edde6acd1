// Package trigger reads kiln.yaml, the file that says which changes are built
// and how, and finds the triggers that a change matches.
//
// The package is pure. What a change brings (ref names, object names,
// metadata) is untrusted: it is matched and put into templates as text, and
// what a template yields is checked before it is used.
package trigger

import (
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
)

// MetaTrigger is the metadata of an object that names the one trigger it is
// meant for. It can only narrow: a trigger that does not match is not run.
const MetaTrigger = "kiln-trigger"

// DefaultTenant is the tenant of triggers that name none.
const DefaultTenant = "default"

// Set is the triggers of one installation, in the order of their file. The
// zero value has none. It does not change once made.
type Set struct{ triggers []Trigger }

// All returns the triggers in order.
func (s Set) All() []Trigger { return slices.Clone(s.triggers) }

// Trigger is a rule that turns changes into builds.
type Trigger struct {
	Name   string   // unique in its set
	Tenant string   // whose builds they are
	On     []Source // what it listens to; one that matches is enough
	Build  Build
	Push   Push
	Run    Run
	Report Report
	Line   int // where it begins in its file
}

// Source is what a trigger listens to: one of its fields is set.
type Source struct {
	Git      *Git
	Object   *Object
	Base     *Base
	Schedule *Schedule
}

// Git matches refs of repositories.
type Git struct {
	// Repo is a location ("github.com/acme/shop") in which * and ** may stand
	// for names and paths.
	Repo string
	// Refs are patterns; one without "refs/" is of a branch. A pattern after
	// "!" takes away what earlier ones gave. Empty is all branches and tags.
	Refs []string
	// Paths and ExtraPaths are patterns of files: a push that touches none of
	// either is not built. Both empty is no filter. A pattern after "!" takes
	// away what earlier ones of its list gave.
	Paths, ExtraPaths []string `json:",omitempty"`
	// NarrowedBy is a file in the repository that may narrow the trigger; ""
	// is none.
	NarrowedBy string `json:",omitempty"`
	// Heal makes sweeps ask the repository for refs whose webhook was lost.
	Heal bool `json:",omitempty"`
}

// Object matches objects of buckets.
type Object struct {
	Bucket string // "gs://b", or "b" for a bucket of any kind; * and ** as in Git.Repo
	Prefix string // of the key; empty matches all
	Suffix string // of the key; empty matches all
	// Metadata are patterns for the object's own metadata, all of which must
	// match.
	Metadata map[string]string `json:",omitempty"`
	// EveryGeneration builds also uploads that arrive after later ones.
	EveryGeneration bool `json:",omitempty"`
}

// Build says how an image is made. Values of Args and Labels are templates.
type Build struct {
	Dockerfile string // below the context
	Context    string // directory of the source that is the context
	Target     string
	Args       map[string]string
	Labels     map[string]string
	Platforms  []string `json:",omitempty"` // "os/arch[/variant]", ascending; several become one index, none is the executor's own
}

// Push says where an image goes. Image and Tags are templates.
type Push struct {
	Image string
	Tags  []string
}

// Run says how a build is run.
type Run struct {
	Timeout   time.Duration // 0 is the launcher's default
	Supersede string        // one of events.Supersede…; empty is the default for the kind of change

	PendingTimeout time.Duration    // until an executor must have started; 0 is the launcher's default
	Resources      events.Resources // what a build needs
	Priority       string           // one of events.Priority…; empty is by what caused the build
}

// Report says who is told of a trigger's builds besides those who listen to
// events.
type Report struct {
	Status bool     // the forge, on the commit
	Notify []string `json:",omitempty"` // names of notifications of the installation
}

// Match is a trigger that a change matched.
type Match struct {
	Trigger Trigger
	By      []Source // those of its sources that matched
	// Request has everything that follows from the trigger and the change. The
	// dispatcher adds the build id, the installation, the sequence, the context
	// and the time. For a deleted ref it has no image, tags or arguments.
	Request events.Request
	// Err says why the change cannot be built although it matched: a template
	// has no value for it, or yields an image that is none.
	Err error
}

// Match returns the triggers that a change matches, in order, each once.
func (s Set) Match(c events.Change) []Match {
	var matches []Match
	for _, t := range s.triggers {
		if !t.meant(c) {
			continue
		}
		var by []Source
		for _, src := range t.On {
			if src.matches(c) {
				by = append(by, src)
			}
		}
		if len(by) > 0 {
			m := t.match(c)
			m.By = by
			if m.EveryGeneration() && t.Run.Supersede == "" {
				m.Request.Supersede = events.SupersedeKeepAll // else they would cancel each other
			}
			matches = append(matches, m)
		}
	}
	return matches
}

// Named returns the trigger of a name; false if there is none.
func (s Set) Named(name string) (Trigger, bool) {
	i := slices.IndexFunc(s.triggers, func(t Trigger) bool { return t.Name == name })
	if i < 0 {
		return Trigger{}, false
	}
	return s.triggers[i], true
}

// Wants reports whether the trigger listens to a ref of a repository.
func (t Trigger) Wants(location, ref string) bool {
	c := events.Change{Kind: events.KindGit, Location: location, Name: ref}
	return slices.ContainsFunc(t.On, func(s Source) bool { return s.Git != nil && s.matches(c) })
}

// Again returns the match of a change that a trigger accepted before and is to
// build again, whatever the trigger listens to now.
func (t Trigger) Again(c events.Change) Match { return t.match(c) }

// meant reports whether a change may be for this trigger: an object may name
// the only one it is for.
func (t Trigger) meant(c events.Change) bool {
	only := c.Metadata[MetaTrigger]
	return c.Kind != events.KindObject || only == "" || only == t.Name
}

// matches reports whether a change is one the source listens to.
func (s Source) matches(c events.Change) bool {
	return !slices.ContainsFunc(s.Check(c), func(k Check) bool { return !k.OK })
}

// matchesRef applies the patterns in order; the last that matches decides.
func (g *Git) matchesRef(ref string) bool {
	patterns := g.Refs
	if len(patterns) == 0 {
		patterns = []string{branches + "**", tags + "**"}
	}
	matched := false
	for _, p := range patterns {
		p, not := strings.CutPrefix(p, "!")
		if glob(fullRef(p), ref) {
			matched = !not
		}
	}
	return matched
}

// Prefixes of refs.
const (
	branches = "refs/heads/"
	tags     = "refs/tags/"
)

// fullRef is the pattern for a full ref name.
func fullRef(pattern string) string {
	if strings.HasPrefix(pattern, "refs/") {
		return pattern
	}
	return branches + pattern
}

func (o *Object) matchesBucket(location string) bool {
	if !strings.Contains(o.Bucket, "://") {
		_, location, _ = strings.Cut(location, "://")
	}
	return glob(o.Bucket, location)
}

// match makes the request of a change that the trigger listens to.
func (t Trigger) match(c events.Change) Match {
	req := events.Request{
		Tenant: t.Tenant, Trigger: t.Name, Group: t.group(c), Change: c,
		ContextSubPath: t.Build.Context, Dockerfile: t.Build.Dockerfile, Target: t.Build.Target,
		Timeout: t.Run.Timeout, Supersede: t.Run.Supersede, Attempt: 1,
		Resources: t.Run.Resources, Priority: t.Run.Priority, PendingTimeout: t.Run.PendingTimeout,
		Report: events.Report{Status: t.Report.Status && c.Kind == events.KindGit, Notify: t.Report.Notify},
	}
	setPlatforms(&req, t.Build.Platforms)
	if req.Supersede == "" {
		req.Supersede = defaultSupersede(c)
	}
	if req.Priority == "" {
		req.Priority = events.PriorityPush
	}
	m := Match{Trigger: t, Request: req}
	if !c.Deleted() {
		m.Err = t.render(&m.Request)
	}
	return m
}

// setPlatforms makes a request one for some platforms, in ascending order; none is
// the executor's own.
func setPlatforms(req *events.Request, platforms []string) {
	req.Platform, req.Platforms = "", nil
	switch len(platforms) {
	case 0:
	case 1:
		req.Platform = platforms[0]
	default:
		req.Platforms = platforms
	}
}

// group is the name under which builds supersede each other.
func (t Trigger) group(c events.Change) string {
	if c.Kind == events.KindGit {
		// Two repositories that match one trigger have refs of the same name.
		if repos, places := gitRepos(t.On); strings.Contains(repos, "*") || places > 1 {
			return t.Name + "/" + c.Location + "/" + c.Name
		}
		return t.Name + "/" + c.Name
	}
	return t.Name + "/" + c.Location + "/" + c.Name
}

// gitRepos are the patterns of all repositories a trigger listens to, and
// places the number of repositories and buckets.
func gitRepos(sources []Source) (repos string, places int) {
	var all strings.Builder
	for _, s := range sources {
		if s.Git != nil {
			all.WriteString(s.Git.Repo + "\n")
		}
		if s.Git != nil || s.Object != nil {
			places++
		}
	}
	return all.String(), places
}

// defaultSupersede is the policy where the trigger says nothing: a tag is a
// release and is kept, whatever else moves is replaced by what is newer.
func defaultSupersede(c events.Change) string {
	if c.Kind == events.KindGit && strings.HasPrefix(c.Name, tags) {
		return events.SupersedeKeepAll
	}
	return events.SupersedeCancelInProgress
}

// render fills in what the templates yield.
func (t Trigger) render(req *events.Request) error {
	v := newVars(t, req.Change)
	var err error
	if t.Push.Image != "" {
		if req.Image, err = renderImage(t.Push.Image, v); err != nil {
			return err
		}
	}
	if req.Tags, err = renderTags(t.Push.Tags, v); err != nil {
		return err
	}
	if req.Args, err = renderMap("build.args", t.Build.Args, v); err != nil {
		return err
	}
	req.Labels, err = renderMap("build.labels", t.Build.Labels, v)
	return err
}

// renderMap renders every value of a map, in the order of its keys.
func renderMap(field string, templates map[string]string, v vars) (map[string]string, error) {
	if len(templates) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(templates))
	for _, key := range slices.Sorted(maps.Keys(templates)) {
		text, err := render(field+"."+key, templates[key], v)
		if err != nil {
			return nil, err
		}
		out[key] = text
	}
	return out, nil
}

// stem is the last part of a key without what its extensions say: "a/b.tar.gz"
// becomes "b".
func stem(key string) string {
	base := path.Base(key)
	for {
		ext := path.Ext(base)
		switch strings.ToLower(ext) {
		case ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", ".zstd", ".zip", ".lz4":
			if short := strings.TrimSuffix(base, ext); short != "" {
				base = short
				continue
			}
		}
		return base
	}
}
