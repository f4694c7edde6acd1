package trigger

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/kilnhook/kiln/events"
)

// field is one field of a mapping and what reads it.
type field struct {
	name string
	read func(n *yaml.Node)
}

// fields reads a mapping in which only the given fields may be, each once.
func (p *parser) fields(n *yaml.Node, where string, known []field) {
	p.each(n, where, func(key, value *yaml.Node) {
		var names []string
		for _, f := range known {
			if f.name == key.Value {
				f.read(value)
				return
			}
			names = append(names, f.name)
		}
		p.fail(key, "unknown field %q in %s; there are %s", key.Value, where, strings.Join(names, ", "))
	})
}

// each calls f for every entry of a mapping, whose keys are text and appear once.
func (p *parser) each(n *yaml.Node, where string, f func(key, value *yaml.Node)) {
	if n = resolve(n); n.Kind != yaml.MappingNode {
		p.fail(n, "%s is not a mapping of fields to values", where)
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), resolve(n.Content[i+1])
		switch {
		case key.Kind != yaml.ScalarNode:
			p.fail(key, "a field of %s is not a word", where)
		case seen[key.Value]:
			p.fail(key, "field %q of %s is given twice", key.Value, where)
		default:
			seen[key.Value] = true
			f(key, value)
		}
	}
}

// text reads a scalar as it is written.
func (p *parser) text(n *yaml.Node, field string) string {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		p.fail(n, "%s is not text", field)
		return ""
	}
	if strings.ContainsRune(n.Value, 0) {
		p.fail(n, "%s holds a zero byte", field)
	}
	return n.Value
}

// texts reads a list of scalars, or one scalar as a list of itself.
func (p *parser) texts(n *yaml.Node, field string) []string {
	if n.Kind == yaml.ScalarNode {
		return []string{p.text(n, field)}
	}
	if n.Kind != yaml.SequenceNode {
		p.fail(n, "%s is not a list", field)
		return nil
	}
	var list []string
	for _, item := range n.Content {
		if s := p.text(resolve(item), field); s != "" {
			list = append(list, s)
		}
	}
	return list
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// has reports whether a mapping has a field.
func has(n *yaml.Node, name string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return true
		}
	}
	return false
}

// tryTemplates renders every template for an example of each kind of change,
// and reports what could not work for any: a field that does not exist. What
// only a particular change lacks is no fault of the file.
func (t Trigger) tryTemplates() error {
	const id = "199eddf46df50de8d02e99bf1c5fdb4101338224"
	for _, s := range t.On {
		if s.Git == nil && s.Object == nil {
			continue
		}
		c := events.Change{
			Kind: events.KindObject, Location: "gs://bucket", Name: "app/context.tar.gz", Generation: "1",
		}
		if s.Git != nil {
			c = events.Change{Kind: events.KindGit, Location: "host/app", Name: branches + "main", Before: id, After: id}
		}
		v := newVars(t, c)
		for _, named := range t.allTemplates() {
			if _, err := render(named.field, named.text, v); err != nil && impossible(err) {
				return err
			}
		}
	}
	return nil
}

// namedText is a template and the field it is the value of.
type namedText struct{ field, text string }

// allTemplates are the texts of a trigger that may be templates.
func (t Trigger) allTemplates() []namedText {
	all := []namedText{{"push.image", t.Push.Image}}
	for i, text := range t.Push.Tags {
		all = append(all, namedText{fmt.Sprintf("push.tags[%d]", i), text})
	}
	for _, key := range slices.Sorted(maps.Keys(t.Build.Args)) {
		all = append(all, namedText{"build.args." + key, t.Build.Args[key]})
	}
	for _, key := range slices.Sorted(maps.Keys(t.Build.Labels)) {
		all = append(all, namedText{"build.labels." + key, t.Build.Labels[key]})
	}
	return all
}

// impossible reports whether an error of a template does not depend on the change.
func impossible(err error) bool {
	text := err.Error()
	return strings.Contains(text, "can't evaluate field") || strings.Contains(text, "wrong number of args") ||
		strings.Contains(text, "wrong type for value") || strings.Contains(text, "can't give argument")
}
