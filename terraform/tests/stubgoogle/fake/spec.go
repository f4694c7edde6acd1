package fake

import (
	"strings"
)

// A spec is what is known of one resource or data type of the provider.
type spec struct {
	name string
	body body
	id   string            // what id becomes: {attribute} stands for its value
	set  map[string]string // what other computed attributes become
	api  string            // the service that must be enabled before; none if empty
	// needs says, once the values are known, what must have been made before
	// Google accepts it; nil if nothing.
	needs func(values) []need
	// check reports what the provider refuses beyond the types; may be nil.
	check func(values) error
}

// A need is a thing that must have been made before, with the reason. A thing
// that ends in an asterisk is any that begins so.
type need struct{ thing, why string }

func (n need) met(thing string) bool {
	prefix, open := strings.CutSuffix(n.thing, "*")
	return thing == n.thing || open && strings.HasPrefix(thing, prefix)
}

// A body is what stands between two braces.
type body struct {
	attrs  []field
	blocks []block
}

// A field is an attribute.
type field struct {
	name     string
	typ      kind
	mode     mode
	oneOf    []string // allowed values; all if empty
	match    string   // regular expression; anything if empty
	min, max int64    // of a number; both zero: any
	standard any      // the value if none is given: bool, string or int; nil: none
}

type mode int

const (
	required mode = iota
	optional
	computed
	optionalComputed // the provider finds a value if none is given
)

// A block may occur from min to max times; max 0 means any number.
type block struct {
	name     string
	min, max int
	set      bool // order means nothing
	body     body
}

// A kind is the type of an attribute.
type kind int

const (
	text kind = iota
	flag
	number
	float
	texts  // a list
	bag    // a set of texts
	labels // a map of texts
)

func req(name string, t kind) field { return field{name: name, typ: t, mode: required} }
func opt(name string, t kind) field { return field{name: name, typ: t, mode: optional} }
func out(name string, t kind) field { return field{name: name, typ: t, mode: computed} }
func may(name string, t kind) field { return field{name: name, typ: t, mode: optionalComputed} }

// one restricts an attribute to some values.
func (f field) one(values ...string) field { f.oneOf = values; return f }

// like restricts an attribute to a form.
func (f field) like(expression string) field { f.match = expression; return f }

// in restricts a number to a range.
func (f field) in(low, high int64) field { f.min, f.max = low, high; return f }

// or gives the value that the provider plans where none is written.
func (f field) or(value any) field { f.standard = value; return f }

// maybe is a block that occurs at most once.
func maybe(name string, content ...any) block { return block{name: name, max: 1, body: of(content...)} }

// once is a block that occurs exactly once.
func once(name string, content ...any) block {
	return block{name: name, min: 1, max: 1, body: of(content...)}
}

// many is a block that may be repeated.
func many(name string, content ...any) block { return block{name: name, body: of(content...)} }

// some is a block that occurs at least once.
func some(name string, content ...any) block {
	return block{name: name, min: 1, body: of(content...)}
}

// bagOf is a block that may be repeated in any order.
func bagOf(name string, content ...any) block {
	return block{name: name, set: true, body: of(content...)}
}

// of collects fields and blocks.
func of(content ...any) body {
	var b body
	for _, c := range content {
		switch c := c.(type) {
		case field:
			b.attrs = append(b.attrs, c)
		case block:
			b.blocks = append(b.blocks, c)
		}
	}
	return b
}

// Forms that many types share.
const (
	duration   = `^[0-9]+(\.[0-9]{1,9})?s$`
	roleForm   = `^(roles/|(projects|organizations)/[^/]+/roles/)[A-Za-z0-9_.]+$`
	memberForm = `^(allUsers|allAuthenticatedUsers|(user|serviceAccount|group|domain|principal|principalSet):.+)$`
	labelValue = `^[\p{Ll}\p{Lo}\p{N}_-]{0,63}$`
)

// project is the attribute that nearly every type has.
func project() field { return may("project", text) }

// ownLabels are the labels of a resource.
func ownLabels() field { return opt("labels", labels).like(labelValue) }

// member is the content of a type that grants a role on something.
func member(on ...field) body {
	b := of(
		req("role", text).like(roleForm),
		req("member", text).like(memberForm),
		out("etag", text),
		maybe("condition", req("title", text), req("expression", text), opt("description", text)),
	)
	b.attrs = append(b.attrs, on...)
	return b
}
