package trigger

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"text/template"
	"unicode/utf8"

	"github.com/kilnhook/kiln/events"
)

// maxRendered is the number of bytes a template may yield.
const maxRendered = 4 << 10

// vars is what a template may name. Fields that do not apply to the kind of
// change are empty.
type vars struct {
	Trigger    string            // name of the trigger
	Tenant     string            // of the trigger
	Kind       string            // "git" or "object"
	Repo       repoVars          // git: the repository
	Ref        refVars           // git: the ref
	Commit     string            // git: the commit, in full
	Before     string            // git: where the ref was
	Bucket     string            // object: the bucket's URL
	Object     objectVars        // object: the key
	Generation string            // object: generation or version
	Metadata   map[string]string // object: what its writer set; git: what the forge said
}

// repoVars is a repository; it prints as its location.
type repoVars struct {
	Location string // "github.com/acme/shop"
	Host     string // "github.com"
	Path     string // "acme/shop"
	Name     string // "shop"
}

func (r repoVars) String() string { return r.Location }

// refVars is a ref; it prints as its full name.
type refVars struct {
	Full  string // "refs/heads/feature/x"
	Short string // "feature/x"
	Slug  string // "feature-x"
	// IsBranch and IsTag tell what it is a name of.
	IsBranch, IsTag bool
}

func (r refVars) String() string { return r.Full }

// objectVars is a key; it prints as the key.
type objectVars struct {
	Key   string // "app/v2/ctx.tar.gz"
	Base  string // "ctx.tar.gz"
	Stem  string // "ctx"
	Dir   string // "app/v2"
	First string // "app"; the stem if there is no directory
}

func (o objectVars) String() string { return o.Key }

func newVars(t Trigger, c events.Change) vars {
	v := vars{Trigger: t.Name, Tenant: t.Tenant, Kind: c.Kind, Metadata: c.Metadata}
	if c.Kind == events.KindGit {
		host, rest, _ := strings.Cut(c.Location, "/")
		v.Repo = repoVars{Location: c.Location, Host: host, Path: rest, Name: path.Base(c.Location)}
		v.Ref, v.Commit, v.Before = newRef(c.Name), c.Revision(), c.Before
		return v
	}
	v.Bucket, v.Generation = c.Location, c.Generation
	v.Object = objectVars{Key: c.Name, Base: path.Base(c.Name), Stem: stem(c.Name), Dir: path.Dir(c.Name)}
	v.Object.First = v.Object.Stem
	if first, _, ok := strings.Cut(strings.TrimLeft(c.Name, "/"), "/"); ok {
		v.Object.First = first
	}
	return v
}

func newRef(full string) refVars {
	r := refVars{Full: full, Short: strings.TrimPrefix(full, "refs/")}
	if short, ok := strings.CutPrefix(full, branches); ok {
		r.Short, r.IsBranch = short, true
	} else if short, ok := strings.CutPrefix(full, tags); ok {
		r.Short, r.IsTag = short, true
	}
	r.Slug = Slug(r.Short)
	return r
}

// functions are all that a template may call besides what the language has.
// The value a function works on comes last, so that it can be piped.
func functions() template.FuncMap {
	return template.FuncMap{
		"slug":  Slug,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"trim":  strings.TrimSpace,
		"trunc": func(n int, s string) (string, error) {
			if n < 0 {
				return "", errors.New("trunc to a negative length")
			}
			for n < len(s) && n > 0 && !utf8.RuneStart(s[n]) {
				n--
			}
			return s[:min(n, len(s))], nil
		},
		"replace":    func(old, new, s string) string { return strings.ReplaceAll(s, old, new) },
		"trimPrefix": func(prefix, s string) string { return strings.TrimPrefix(s, prefix) },
		"trimSuffix": func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
		"base":       path.Base,
		"stem":       stem,
		"default": func(fallback, s string) string {
			if s == "" {
				return fallback
			}
			return s
		},
	}
}

// compile reads a template.
func compile(field, text string) (*template.Template, error) {
	return template.New(field).Option("missingkey=error").Funcs(functions()).Parse(text)
}

// render yields what a template says about a change.
func render(field, text string, v vars) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	tmpl, err := compile(field, text)
	if err != nil {
		return "", fmt.Errorf("template of %s: %w", field, err)
	}
	var out limited
	if err := tmpl.Execute(&out, v); err != nil {
		return "", fmt.Errorf("template of %s: %w", field, err)
	}
	s := out.String()
	if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
		return "", fmt.Errorf("template of %s yields what is not text", field)
	}
	return s, nil
}

// limited collects at most maxRendered bytes.
type limited struct{ strings.Builder }

// Write fails when there is too much.
func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxRendered {
		return 0, fmt.Errorf("it yields more than %d bytes", maxRendered)
	}
	return l.Builder.Write(p)
}

// renderImage yields the repository an image goes to.
func renderImage(text string, v vars) (string, error) {
	image, err := render("push.image", text, v)
	if err != nil {
		return "", err
	}
	if err := CheckRepository(image); err != nil {
		return "", fmt.Errorf("push.image: %w", err)
	}
	return image, nil
}

// renderTags yields the tags: one or, separated by commas, several for each
// template, in order and without repetition. An empty one is left out.
func renderTags(texts []string, v vars) ([]string, error) {
	var all []string
	seen := map[string]bool{}
	for i, text := range texts {
		s, err := render(fmt.Sprintf("push.tags[%d]", i), text, v)
		if err != nil {
			return nil, err
		}
		for part := range strings.SplitSeq(s, ",") {
			if tag := Tag(strings.TrimSpace(part)); tag != "" && !seen[tag] {
				seen[tag] = true
				all = append(all, tag)
			}
		}
	}
	return all, nil
}
