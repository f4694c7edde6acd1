package trigger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/kilnhook/kiln/events"
)

// Limits on a file.
const (
	maxFile     = 1 << 20 // bytes
	maxTriggers = 1000
	maxTimeout  = 24 * time.Hour
)

// Error is one fault of a file.
type Error struct {
	File string
	Line int // from 1; 0 if the fault has no place
	Text string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Text
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text)
}

// Parse reads triggers: documents of one trigger each, or of a list, or with a
// list under "triggers". file is the name that errors carry. Everything that is
// wrong is reported at once, as *Error values joined together: unknown fields,
// wrong values, templates that cannot work.
func Parse(file string, data []byte) (Set, error) {
	p := &parser{file: file, names: map[string]int{}}
	if len(data) > maxFile {
		return Set{}, &Error{File: file, Text: fmt.Sprintf("%d bytes are more than %d", len(data), maxFile)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			p.errs = append(p.errs, p.yamlError(err))
			break
		}
		if len(doc.Content) == 1 {
			p.document(doc.Content[0])
		}
	}
	if err := errors.Join(p.errs...); err != nil {
		return Set{}, err
	}
	return Set{triggers: p.triggers}, nil
}

// parser collects the triggers and faults of a file.
type parser struct {
	file     string
	triggers []Trigger
	names    map[string]int // line of each name
	errs     []error
}

// yamlError places what the YAML library says about syntax.
func (p *parser) yamlError(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, scanErr := fmt.Sscanf(text, "line %d:", &line); n == 1 && scanErr == nil {
		_, text, _ = strings.Cut(text, ": ")
	}
	return &Error{File: p.file, Line: line, Text: text}
}

func (p *parser) fail(n *yaml.Node, format string, args ...any) {
	p.errs = append(p.errs, &Error{File: p.file, Line: n.Line, Text: fmt.Sprintf(format, args...)})
}

// document reads one document.
func (p *parser) document(n *yaml.Node) {
	switch n = resolve(n); {
	case n.Kind == yaml.SequenceNode:
		p.list(n)
	case n.Kind == yaml.MappingNode && has(n, "triggers"):
		p.fields(n, "the file", []field{{"triggers", p.list}})
	case n.Kind == yaml.MappingNode:
		p.trigger(n)
	case isNull(n): // an empty document
	default:
		p.fail(n, "expected a trigger or a list of triggers")
	}
}

func (p *parser) list(n *yaml.Node) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		p.fail(n, "triggers is not a list")
		return
	}
	for _, item := range n.Content {
		p.trigger(resolve(item))
	}
}

// trigger reads one trigger.
func (p *parser) trigger(n *yaml.Node) {
	if len(p.triggers) == maxTriggers {
		p.fail(n, "more than %d triggers", maxTriggers)
		return
	}
	before := len(p.errs)
	t := Trigger{Tenant: DefaultTenant, Line: n.Line}
	p.fields(n, "a trigger", []field{
		{"name", func(n *yaml.Node) { t.Name = p.name(n, "name") }},
		{"tenant", func(n *yaml.Node) { t.Tenant = p.name(n, "tenant") }},
		{"on", func(n *yaml.Node) { t.On = p.on(n) }},
		{"build", func(n *yaml.Node) { p.build(n, &t.Build) }},
		{"push", func(n *yaml.Node) { p.push(n, &t.Push) }},
		{"run", func(n *yaml.Node) { p.run(n, &t.Run) }},
		{"report", func(n *yaml.Node) { p.report(n, &t.Report) }},
	})
	if len(p.errs) == before {
		p.complete(n, t)
	}
	p.triggers = append(p.triggers, t)
}

// complete checks what can be said only of a whole trigger.
func (p *parser) complete(n *yaml.Node, t Trigger) {
	switch {
	case t.Name == "":
		p.fail(n, "trigger has no name")
	case len(t.On) == 0:
		p.fail(n, "trigger %s listens to nothing: give it on: git: or on: object:", t.Name)
	case !slices.ContainsFunc(t.On, func(s Source) bool { return s.Git != nil || s.Object != nil }):
		p.fail(n, "trigger %s has nothing to build: base and schedule build again what git or object brought", t.Name)
	case t.Push.Image == "" && len(t.Push.Tags) > 0:
		p.fail(n, "trigger %s has push.tags and no push.image", t.Name)
	}
	if line, taken := p.names[t.Name]; taken && t.Name != "" {
		p.fail(n, "there is a trigger %s in line %d already", t.Name, line)
	}
	p.names[t.Name] = n.Line
	if err := t.placeSchedules(); err != nil {
		p.fail(n, "trigger %s: on.schedule: %v", t.Name, err)
	}
	if err := t.tryTemplates(); err != nil {
		p.fail(n, "trigger %s: %v", t.Name, err)
	}
}

// on reads the sources: one mapping, or a list of them.
func (p *parser) on(n *yaml.Node) []Source {
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = n.Content
	}
	var sources []Source
	for _, item := range items {
		p.fields(resolve(item), "on", []field{
			{"git", func(n *yaml.Node) { sources = append(sources, Source{Git: p.git(n)}) }},
			{"object", func(n *yaml.Node) { sources = append(sources, Source{Object: p.object(n)}) }},
			{"base", func(n *yaml.Node) { sources = append(sources, Source{Base: p.base(n)}) }},
			{"schedule", func(n *yaml.Node) { sources = append(sources, Source{Schedule: p.schedule(n)}) }},
		})
	}
	return sources
}

func (p *parser) git(n *yaml.Node) *Git {
	var g Git
	p.fields(n, "on.git", []field{
		{"repo", func(n *yaml.Node) {
			text := p.text(n, "on.git.repo")
			location, err := events.RepoLocation(text)
			if text == "*" || text == "**" { // any repository, of any host
				location, err = "**", nil
			}
			if err != nil {
				p.fail(n, "on.git.repo: %v", err)
			}
			g.Repo = location
		}},
		{"refs", func(n *yaml.Node) { g.Refs = p.texts(n, "on.git.refs") }},
		{"paths", func(n *yaml.Node) { g.Paths = p.globs(n, "on.git.paths") }},
		{"extraPaths", func(n *yaml.Node) { g.ExtraPaths = p.globs(n, "on.git.extraPaths") }},
		{"narrowedBy", func(n *yaml.Node) { g.NarrowedBy = p.path(n, "on.git.narrowedBy") }},
		{"heal", func(n *yaml.Node) { g.Heal = p.yes(n, "on.git.heal") }},
	})
	if g.Repo == "" && n.Kind == yaml.MappingNode {
		p.fail(n, "on.git has no repo")
	}
	if g.Heal && strings.Contains(g.Repo, "*") {
		p.fail(n, "on.git.heal needs the name of one repository, not %q", g.Repo)
	}
	return &g
}

func (p *parser) object(n *yaml.Node) *Object {
	var o Object
	p.fields(n, "on.object", []field{
		{"bucket", func(n *yaml.Node) { o.Bucket = strings.TrimSuffix(p.text(n, "on.object.bucket"), "/") }},
		{"prefix", func(n *yaml.Node) { o.Prefix = p.text(n, "on.object.prefix") }},
		{"suffix", func(n *yaml.Node) { o.Suffix = p.text(n, "on.object.suffix") }},
		{"metadata", func(n *yaml.Node) { o.Metadata = p.patterns(n, "on.object.metadata") }},
		{"everyGeneration", func(n *yaml.Node) { o.EveryGeneration = p.yes(n, "on.object.everyGeneration") }},
	})
	if o.Bucket == "" && n.Kind == yaml.MappingNode {
		p.fail(n, "on.object has no bucket")
	}
	return &o
}

func (p *parser) build(n *yaml.Node, b *Build) {
	p.fields(n, "build", []field{
		{"dockerfile", func(n *yaml.Node) { b.Dockerfile = p.path(n, "build.dockerfile") }},
		{"context", func(n *yaml.Node) { b.Context = p.path(n, "build.context") }},
		{"target", func(n *yaml.Node) { b.Target = p.text(n, "build.target") }},
		{"args", func(n *yaml.Node) { b.Args = p.templates(n, "build.args") }},
		{"labels", func(n *yaml.Node) { b.Labels = p.templates(n, "build.labels") }},
		{"platforms", func(n *yaml.Node) { b.Platforms = p.platforms(n, "build.platforms") }},
	})
}

func (p *parser) push(n *yaml.Node, push *Push) {
	p.fields(n, "push", []field{
		{"image", func(n *yaml.Node) { push.Image = p.image(n) }},
		{"tags", func(n *yaml.Node) {
			push.Tags = p.texts(n, "push.tags")
			for _, text := range push.Tags {
				p.template(n, "push.tags", text)
			}
		}},
	})
}

func (p *parser) run(n *yaml.Node, r *Run) {
	p.fields(n, "run", []field{
		{"timeout", func(n *yaml.Node) { r.Timeout = p.duration(n, "run.timeout") }},
		{"pendingTimeout", func(n *yaml.Node) { r.PendingTimeout = p.duration(n, "run.pendingTimeout") }},
		{"resources", func(n *yaml.Node) { r.Resources = p.resources(n, "run.resources") }},
		{"priority", func(n *yaml.Node) {
			r.Priority = p.text(n, "run.priority")
			if err := events.ValidPriority(r.Priority); err != nil {
				p.fail(n, "run.priority: %v", err)
			}
		}},
		{"supersede", func(n *yaml.Node) {
			r.Supersede = p.text(n, "run.supersede")
			if err := events.ValidSupersede(r.Supersede); err != nil {
				p.fail(n, "run.supersede: %v", err)
			}
		}},
	})
}

// name reads the name of a trigger or tenant, which goes into keys and URLs.
func (p *parser) name(n *yaml.Node, field string) string {
	s := p.text(n, field)
	odd := strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != ""
	if s == "" || len(s) > 63 || odd || strings.Trim(s[:1], "-_.") == "" {
		p.fail(n, "%s %q is not 1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit", field, s)
	}
	return s
}

// path reads a path below the context.
func (p *parser) path(n *yaml.Node, field string) string {
	s := p.text(n, field)
	clean := path.Clean(s)
	if s == "" || path.IsAbs(s) || clean == ".." || strings.HasPrefix(clean, "../") {
		p.fail(n, "%s %q is not a path below the context", field, s)
	}
	if clean == "." {
		return ""
	}
	return clean
}

// image reads a template of a repository whose host is no template, so that
// nothing a change brings can send an image to another registry.
func (p *parser) image(n *yaml.Node) string {
	s := p.text(n, "push.image")
	host, _, _ := strings.Cut(s, "/")
	switch {
	case strings.Contains(host, "{{"):
		p.fail(n, "push.image %q: the part before the first '/' must not be a template", s)
	case !strings.Contains(s, "{{"):
		if err := CheckRepository(s); err != nil {
			p.fail(n, "push.image: %v", err)
		}
	default:
		p.template(n, "push.image", s)
	}
	return s
}

// templates reads a mapping of names to templates.
func (p *parser) templates(n *yaml.Node, field string) map[string]string {
	m := map[string]string{}
	p.each(n, field, func(key, value *yaml.Node) {
		text := p.text(value, field+"."+key.Value)
		if key.Value == "" || strings.ContainsAny(key.Value, "= \t\n\x00") {
			p.fail(key, "%s: %q is not a name", field, key.Value)
		}
		p.template(value, field+"."+key.Value, text)
		m[key.Value] = text
	})
	return m
}

// template checks the syntax of a template.
func (p *parser) template(n *yaml.Node, field, text string) {
	if _, err := compile(field, text); err != nil {
		p.fail(n, "%s: %s", field, strings.TrimPrefix(err.Error(), "template: "))
	}
}
