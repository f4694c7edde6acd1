package plan

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// normalizeContexts gives every context the name that it is looked up by.
func normalizeContexts(given map[string]NamedContext) (map[string]NamedContext, error) {
	out := map[string]NamedContext{}
	for name, nc := range given {
		key, err := contextName(name)
		if err != nil {
			return nil, fmt.Errorf("invalid name of a build context %q: %w", name, err)
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("the build context %s is given twice", key)
		}
		out[key] = nc
	}
	return out, nil
}

// contextName is the shortest form of a name: that of an image without the
// default registry and tag.
func contextName(name string) (string, error) {
	name, platform, ok := strings.Cut(name, "::")
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	name = strings.TrimSuffix(reference.FamiliarString(named), ":latest")
	if !ok {
		return name, nil
	}
	p, err := ParsePlatform(platform)
	if err != nil {
		return "", err
	}
	return name + "::" + platformName(p), nil
}

// SameContext reports whether a name given in Options.Contexts is the context
// that a plan calls used.
func SameContext(given, used string) bool {
	key, err := contextName(given)
	return err == nil && key == used
}

// namedContext finds the context that a name means, one for the platform
// before one for all.
func (b *builder) namedContext(name string, p v1.Platform) (string, NamedContext, bool) {
	if name == "" || len(b.contexts) == 0 {
		return "", NamedContext{}, false
	}
	key, err := contextName(name)
	if err != nil {
		return "", NamedContext{}, false
	}
	for _, k := range []string{key + "::" + platformName(p), key} {
		if nc, ok := b.contexts[k]; ok {
			return k, nc, true
		}
	}
	return "", NamedContext{}, false
}

// standOn starts a stage from a context.
func (b *builder) standOn(s *stage, name string, nc NamedContext) {
	switch nc.Image {
	case "":
		s.files = name
	case scratch:
	default:
		s.image = b.wantImage(nc.Image, s.platform)
	}
}

// load is the first step of a stage that is a context of files.
func (st *stageState) load(s Stage) Step {
	return Step{
		Pos: s.Pos, Text: "load context " + st.s.files, CreatedBy: "[context " + st.s.files + "] load from client", Comment: "buildkit.exporter.image.v0",
		Op:    Copy{Placing: Placing{Dest: "/"}, From: Source{Context: st.s.files}, Paths: []string{"."}},
		State: st.state(),
	}
}

// contextsOf returns the names of the contexts that an operation reads, "" among
// them for other sources.
func contextsOf(op Op) []string {
	switch op := op.(type) {
	case Copy:
		return []string{op.From.Context}
	case Run:
		var out []string
		for _, m := range op.Mounts {
			out = append(out, m.From.Context)
		}
		return out
	}
	return nil
}

// ContextsUsed returns the names of the contexts of files that the plan copies
// or mounts from.
func (p *Plan) ContextsUsed() []string {
	var out []string
	seen := map[string]bool{}
	for _, s := range p.Stages {
		for _, t := range s.Steps {
			for _, name := range contextsOf(t.Op) {
				if name != "" && !seen[name] {
					seen[name] = true
					out = append(out, name)
				}
			}
		}
	}
	return out
}
