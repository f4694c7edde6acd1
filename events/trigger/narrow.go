package trigger

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/kilnhook/kiln/events"
)

// maxNarrowing is the size of the largest narrowing file, in bytes.
const maxNarrowing = 64 << 10

// Narrowing is what a file in a repository says about the triggers that build
// it. All it can do is to take away: skip builds, drop tags, lower limits.
// Whoever can push can write it, so nothing in it is trusted to do more.
type Narrowing struct{ rules []rule }

// rule is what a file says about the triggers that it names, or about all.
type rule struct {
	triggers  []string // patterns of names; empty is all
	skip      bool
	refs      []string // of those that the trigger has, only these
	paths     []string // besides the trigger's own filter, one of these must be touched
	tags      []string // patterns: of those that the trigger asks for, only these
	timeout   time.Duration
	resources events.Resources
	platforms []string

	file                                      string
	timeoutLine, resourcesLine, platformsLine int
}

// ParseNarrowing reads a narrowing file: one mapping, or a list of mappings
// each of which may name the triggers it is about. Errors are *Error values.
func ParseNarrowing(file string, data []byte) (Narrowing, error) {
	if len(data) > maxNarrowing {
		return Narrowing{}, &Error{File: file, Text: fmt.Sprintf("%d bytes are more than %d", len(data), maxNarrowing)}
	}
	p := &parser{file: file}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return Narrowing{}, p.yamlError(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Narrowing{}, &Error{File: file, Text: "there is more than one document in it"}
	}
	var n Narrowing
	if len(doc.Content) == 1 {
		switch root := resolve(doc.Content[0]); {
		case isNull(root):
		case root.Kind == yaml.SequenceNode:
			for _, item := range root.Content {
				n.rules = append(n.rules, p.rule(resolve(item)))
			}
		default:
			n.rules = append(n.rules, p.rule(root))
		}
	}
	return n, errors.Join(p.errs...)
}

// rule reads one mapping of a narrowing file.
func (p *parser) rule(n *yaml.Node) rule {
	r := rule{file: p.file}
	p.fields(n, "a narrowing file", []field{
		{"triggers", func(n *yaml.Node) { r.triggers = p.texts(n, "triggers") }},
		{"skip", func(n *yaml.Node) { r.skip = p.yes(n, "skip") }},
		{"refs", func(n *yaml.Node) { r.refs = p.texts(n, "refs") }},
		{"paths", func(n *yaml.Node) { r.paths = p.globs(n, "paths") }},
		{"tags", func(n *yaml.Node) { r.tags = p.texts(n, "tags") }},
		{"timeout", func(n *yaml.Node) { r.timeout, r.timeoutLine = p.duration(n, "timeout"), n.Line }},
		{"resources", func(n *yaml.Node) { r.resources, r.resourcesLine = p.resources(n, "resources"), n.Line }},
		{"platforms", func(n *yaml.Node) { r.platforms, r.platformsLine = p.platforms(n, "platforms"), n.Line }},
	})
	return r
}

// NeedsFiles reports whether the file filters by paths.
func (n Narrowing) NeedsFiles() bool {
	return slices.ContainsFunc(n.rules, func(r rule) bool { return len(r.paths) > 0 })
}

// Apply narrows a match. skip says why the change is not to be built, if it is
// not. files are those that the change touched; nil if that is not known, and
// then no path filter skips anything. The error, an *Error, says that the file
// asks for more than the trigger allows.
func (n Narrowing) Apply(m Match, files []string) (narrowed Match, skip string, err error) {
	req := &m.Request
	for _, r := range n.rules {
		if len(r.triggers) > 0 && !slices.ContainsFunc(r.triggers, func(p string) bool { return glob(p, m.Trigger.Name) }) {
			continue
		}
		switch {
		case r.skip:
			return m, r.file + " says skip", nil
		case len(r.refs) > 0 && !(&Git{Refs: r.refs}).matchesRef(req.Change.Name):
			return m, fmt.Sprintf("%s limits refs to %s", r.file, strings.Join(r.refs, ", ")), nil
		case len(r.paths) > 0 && files != nil && !slices.ContainsFunc(files, func(f string) bool { return anyGlob(r.paths, f) }):
			return m, fmt.Sprintf("no file that %s names in paths was touched (%s)", r.file, strings.Join(r.paths, ", ")), nil
		}
		if err := r.limit(req); err != nil {
			return m, "", err
		}
		if len(r.tags) > 0 {
			req.Tags = slices.DeleteFunc(slices.Clone(req.Tags), func(tag string) bool { return !anyGlob(r.tags, tag) })
		}
	}
	return m, "", nil
}

// limit lowers what a request may use, and refuses to raise it.
func (r rule) limit(req *events.Request) error {
	widens := func(line int, field, want, have string) error {
		return &Error{File: r.file, Line: line, Text: fmt.Sprintf("%s %s is more than the trigger allows, %s; a repository may narrow its triggers and not widen them", field, want, have)}
	}
	if r.timeout > 0 {
		if req.Timeout > 0 && r.timeout > req.Timeout {
			return widens(r.timeoutLine, "timeout", r.timeout.String(), req.Timeout.String())
		}
		req.Timeout = r.timeout
	}
	for _, l := range []struct {
		field      string
		want, have *int64
	}{
		{"resources.cpu (thousandths)", &r.resources.CPUMillis, &req.Resources.CPUMillis},
		{"resources.memory", &r.resources.Memory, &req.Resources.Memory},
		{"resources.disk", &r.resources.Disk, &req.Resources.Disk},
	} {
		if *l.want == 0 {
			continue
		}
		if *l.have > 0 && *l.want > *l.have {
			return widens(r.resourcesLine, l.field, fmt.Sprint(*l.want), fmt.Sprint(*l.have))
		}
		*l.have = *l.want
	}
	if len(r.platforms) == 0 {
		return nil
	}
	have := req.Platforms
	if req.Platform != "" {
		have = []string{req.Platform}
	}
	for _, p := range r.platforms {
		if !slices.Contains(have, p) {
			return widens(r.platformsLine, "platform", p, cmp.Or(strings.Join(have, ", "), "the executor's own"))
		}
	}
	setPlatforms(req, r.platforms)
	return nil
}
