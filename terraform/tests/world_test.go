package terraform_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kilnhook/kiln/terraform/tests/stubgoogle/fake"
)

// world is what an apply has made.
type world struct {
	things  []thing
	outputs map[string]any
}

// of lists the things of a type.
func (w world) of(kind string) []thing {
	var found []thing
	for _, th := range w.things {
		if th.Type == "google_"+kind {
			found = append(found, th)
		}
	}
	return found
}

// at follows a path such as "push_config.0.push_endpoint".
func (th thing) at(path string) any { return fake.At(th.Values, path) }

func (th thing) text(path string) string {
	s, _ := th.at(path).(string)
	return s
}

func (th thing) list(path string) []any {
	l, _ := th.at(path).([]any)
	return l
}

// A grant is a role that somebody has on something.
type grant struct{ kind, target, role, member, prefix string }

// grants are all roles that were granted.
func (w world) grants() []grant {
	var all []grant
	for _, th := range w.things {
		kind, ok := strings.CutSuffix(strings.TrimPrefix(th.Type, "google_"), "_iam_member")
		if !ok {
			continue
		}
		g := grant{kind: kind, role: th.text("role"), member: th.text("member")}
		for _, path := range []string{"bucket", "topic", "subscription", "repository", "secret_id", "service_account_id", "crypto_key_id", "name", "project"} {
			if g.target = th.text(path); g.target != "" {
				break
			}
		}
		g.target = g.target[strings.LastIndexByte(g.target, '/')+1:]
		if c := th.text("condition.0.expression"); c != "" {
			// What the condition does not say in our form is no prefix.
			begin := fmt.Sprintf("resource.name.startsWith(\"projects/_/buckets/%s/objects/", g.target)
			if rest, ok := strings.CutPrefix(c, begin); ok {
				g.prefix = strings.TrimSuffix(rest, "\")")
			} else {
				g.prefix = "?" + c
			}
		}
		all = append(all, g)
	}
	return all
}

// String is one line of the matrix.
func (g grant) String() string {
	who := strings.TrimPrefix(g.member, "serviceAccount:")
	who, _, _ = strings.Cut(who, "@acme-builds.iam")
	line := strings.Join([]string{who, strings.TrimPrefix(g.role, "roles/"), g.kind, g.target}, " ")
	if g.prefix != "" {
		line += " below " + g.prefix
	}
	return line
}

// matrix is all grants, a sorted line each.
func (w world) matrix() string {
	var lines []string
	for _, g := range w.grants() {
		lines = append(lines, g.String()+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// has reports whether a role was granted.
func (w world) has(g grant) bool { return slices.Contains(w.grants(), g) }
