package trigger

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	idA   = "a10867b14bb761a232cd80139fbd4c0d33264240"
	idB   = "199eddf46df50de8d02e99bf1c5fdb4101338224"
	zeros = "0000000000000000000000000000000000000000"
)

func push(repo, ref string) events.Change {
	return events.Change{Kind: events.KindGit, Location: repo, Name: ref, Before: idA, After: idB}
}

func upload(bucket, key string) events.Change {
	return events.Change{Kind: events.KindObject, Location: bucket, Name: key, Generation: "1795400000000001", Size: 1}
}

func load(t *testing.T, file string) Set {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	set, err := Parse(file, data)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// A file that uses everything, as it is understood.
func TestParseGolden(t *testing.T) {
	got, err := json.MarshalIndent(load(t, "testdata/full.yaml").All(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile("testdata/full.golden", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/full.golden")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got\n%s", got)
	}
}

// A fault is told with its line, and all faults at once.
func TestParseErrors(t *testing.T) {
	const head = "name: a\non: {git: {repo: h/r}}\n"
	for name, tc := range map[string]struct{ in, want string }{
		"unknown field":       {head + "pusch: {}", `f:3: unknown field "pusch" in a trigger; there are name, tenant, on, build, push, run`},
		"unknown below":       {head + "push:\n  image: x\n  tag: y", `f:5: unknown field "tag" in push; there are image, tags`},
		"unknown in list":     {"triggers:\n- name: a\n  on: [{git: {repo: h/r, branch: x}}]", `f:3: unknown field "branch" in on.git; there are repo, refs`},
		"twice":               {head + "name: b", `f:3: field "name" of a trigger is given twice`},
		"no name":             {"on: {git: {repo: h/r}}", "f:1: trigger has no name"},
		"bad name":            {"name: ../x\non: {git: {repo: h/r}}", `f:1: name "../x" is not`},
		"bad tenant":          {head + "tenant: a/b", `f:3: tenant "a/b" is not`},
		"same name":           {head + "---\n" + head, "f:4: there is a trigger a in line 1 already"},
		"no on":               {"name: a", "f:1: trigger a listens to nothing"},
		"empty on":            {"name: a\non: []", "f:1: trigger a listens to nothing"},
		"on is text":          {"name: a\non: push", "f:2: on is not a mapping"},
		"no repo":             {"name: a\non: {git: {refs: [x]}}", "f:2: on.git has no repo"},
		"bad repo":            {"name: a\non: {git: {repo: 'h'}}", "f:2: on.git.repo: repository"},
		"no bucket":           {"name: a\non: {object: {prefix: x}}", "f:2: on.object has no bucket"},
		"absolute dockerfile": {head + "build: {dockerfile: /etc/passwd}", "f:3: build.dockerfile \"/etc/passwd\" is not a path below the context"},
		"context leads out":   {head + "build: {context: a/../../b}", "f:3: build.context"},
		"timeout":             {head + "run: {timeout: 30}", `f:3: run.timeout "30" is not a time such as 30m`},
		"long timeout":        {head + "run: {timeout: 25h}", "f:3: run.timeout"},
		"negative timeout":    {head + "run: {timeout: -1m}", "f:3: run.timeout"},
		"supersede":           {head + "run: {supersede: newest}", `f:3: run.supersede: supersede policy "newest"`},
		"null":                {head + "push: {image: }", "f:3: push.image is not text"},
		"list as text":        {head + "push: {image: [a]}", "f:3: push.image is not text"},
		"map as list":         {head + "push: {image: a, tags: {a: b}}", "f:3: push.tags is not a list"},
		"image upper case":    {head + "push: {image: reg.io/App}", "f:3: push.image:"},
		"image with tag":      {head + "push: {image: 'reg.io/app:latest'}", "f:3: push.image:"},
		"image host template": {head + "push: {image: '{{ .Repo }}/x'}", "f:3: push.image \"{{ .Repo }}/x\": the part before the first '/' must not be a template"},
		"image all template":  {head + "push: {image: '{{ .Repo }}'}", "f:3: push.image"},
		"tags without image":  {head + "push: {tags: [a]}", "f:1: trigger a has push.tags and no push.image"},
		"template syntax":     {head + "push: {image: r/a, tags: ['{{ .Ref ']}", "f:3: push.tags"},
		"template function":   {head + "push: {image: r/a, tags: ['{{ env \"HOME\" }}']}", `f:3: push.tags: push.tags:1: function "env" not defined`},
		"template field":      {head + "push: {image: r/a, tags: ['{{ .Reff }}']}", "f:1: trigger a: template of push.tags[0]"},
		"template arg":        {head + "build: {args: {A: '{{ trunc }}'}}", "f:1: trigger a: template of build.args.A"},
		"argument name":       {head + "build: {args: {'A=B': c}}", `f:3: build.args: "A=B" is not a name`},
		"key is a list":       {head + "? [a]\n: b", "f:3: a field of a trigger is not a word"},
		"not yaml":            {"name: [", "f:1: did not find expected node content"},
		"text":                {"hello", "f:1: expected a trigger or a list of triggers"},
		"triggers and more":   {"triggers: []\nversion: 1", `f:2: unknown field "version" in the file; there are triggers`},
		"merge key":           {"a: &a {name: x}\n<<: *a", `f:1: unknown field "a" in a trigger`},
		"too large":           {strings.Repeat("#", maxFile+1), "f: 1048577 bytes are more than"},
	} {
		set, err := Parse("f", []byte(tc.in))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v\nwant %s", name, err, tc.want)
		}
		if len(set.All()) != 0 {
			t.Errorf("%s: triggers along with an error", name)
		}
		if e := (*Error)(nil); err != nil && !errors.As(err, &e) {
			t.Errorf("%s: the error has no place: %v", name, err)
		}
	}
	_, err := Parse("f", []byte("nam: a\npush: {imag: b}\n"))
	if n := strings.Count(err.Error(), "unknown field"); n != 2 {
		t.Errorf("%d of 2 faults are told: %v", n, err)
	}
}

func TestParseAccepts(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want int
	}{
		"nothing":       {"", 0},
		"comment":       {"# none yet\n", 0},
		"empty list":    {"triggers:\n", 0},
		"a list":        {"- {name: a, on: {git: {repo: h/r}}}\n- {name: b, on: {git: {repo: h/r}}}\n", 2},
		"two documents": {"name: a\non: {git: {repo: h/r}}\n---\nname: b\non: {git: {repo: h/r}}\n", 2},
		"an alias":      {"- name: a\n  on: &on {git: {repo: h/r}}\n- name: b\n  on: *on\n", 2},
	} {
		set, err := Parse("f", []byte(tc.in))
		if err != nil || len(set.All()) != tc.want {
			t.Errorf("%s: %d triggers, %v", name, len(set.All()), err)
		}
	}
}

func TestMatch(t *testing.T) {
	set := load(t, "testdata/full.yaml")
	meta := upload("kiln://contexts", "app/ctx.tar.gz")
	meta.Metadata = map[string]string{MetaTrigger: "app"}
	for name, tc := range map[string]struct {
		change events.Change
		want   string
	}{
		"branch":            {push("github.com/acme/shop", "refs/heads/main"), "app any-repo"},
		"star":              {push("github.com/acme/shop", "refs/heads/release/1"), "app any-repo"},
		"star, deeper":      {push("github.com/acme/shop", "refs/heads/release/1/2"), "any-repo"},
		"taken away":        {push("github.com/acme/shop", "refs/heads/release/old"), "any-repo"},
		"tag":               {push("github.com/acme/shop", "refs/tags/v1.2"), "app any-repo"},
		"other tag":         {push("github.com/acme/shop", "refs/tags/x1"), "any-repo"},
		"tag like a branch": {push("github.com/acme/shop", "refs/tags/main"), "any-repo"},
		"other repository":  {push("github.com/acme/shop2", "refs/heads/main"), "any-repo"},
		"other host":        {push("evil.example/acme/shop", "refs/heads/main"), "any-repo"},
		"pull request":      {push("github.com/acme/shop", "refs/pull/1/head"), ""},
		"object":            {upload("gs://acme-contexts", "app/x.tar.gz"), "app"},
		"prefix":            {upload("gs://acme-contexts", "web/x.tar.gz"), ""},
		"suffix":            {upload("gs://acme-contexts", "app/x.zip"), ""},
		"other kind":        {upload("s3://acme-contexts", "app/x.tar.gz"), ""},
		"any kind":          {upload("s3://contexts", "x"), "any-upload"},
		"own bucket":        {upload("kiln://contexts", "x"), "any-upload"},
		"narrowed to other": {meta, ""},
	} {
		var got []string
		for _, m := range set.Match(tc.change) {
			got = append(got, m.Trigger.Name)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// Prefix and suffix do not overlap in a key.
func TestPrefixAndSuffixDoNotOverlap(t *testing.T) {
	o := Source{Object: &Object{Bucket: "b", Prefix: "aba", Suffix: "aba"}}
	if o.matches(upload("gs://b", "ababa"+"")) || o.matches(upload("gs://b", "aba")) {
		t.Error("prefix and suffix share characters of the key")
	}
	if !o.matches(upload("gs://b", "abaaba")) {
		t.Error("a key that has both does not match")
	}
}

func TestMatchMakesTheRequest(t *testing.T) {
	set := load(t, "testdata/full.yaml")
	m := set.Match(push("github.com/acme/shop", "refs/heads/main"))
	if len(m) != 2 || m[0].Err != nil || m[1].Err != nil {
		t.Fatalf("%+v", m)
	}
	r := m[0].Request
	if r.Trigger != "app" || r.Tenant != "acme" || r.Group != "app/github.com/acme/shop/refs/heads/main" ||
		r.ContextSubPath != "services/app" || r.Dockerfile != "services/app/Dockerfile" || r.Target != "prod" ||
		r.Timeout != 30*time.Minute || r.Supersede != events.SupersedeCancelInProgress || r.Image != "eu-docker.pkg.dev/acme/img/app" {
		t.Errorf("%+v", r)
	}
	if got := fmt.Sprint(r.Args); got != "map[NUMBER:1.20 VERSION:main-199eddf46df5]" {
		t.Errorf("args %s", got)
	}
	if got := fmt.Sprint(r.Tags); got != "[main "+idB+"]" {
		t.Errorf("tags %s: the empty one must be left out", got)
	}
	if r := m[1].Request; r.Image != "127.0.0.1:5000/shop" || fmt.Sprint(r.Tags) != "[main 199eddf46df5]" || r.Tenant != DefaultTenant {
		t.Errorf("%+v", r)
	}
	c := upload("gs://acme-contexts", "app/v1/My Ctx.tar.gz")
	c.Metadata = map[string]string{"kiln-tags": "main, 1.4.2,main,, -x/y"}
	r = set.Match(c)[0].Request
	if got := fmt.Sprint(r.Tags); got != "[main 1.4.2 x-y]" || r.Args["VERSION"] != "My Ctx-" {
		t.Errorf("tags %s, args %v", got, r.Args)
	}
	r = set.Match(upload("kiln://contexts", "Shop.tar.gz"))[0].Request
	if r.Image != "127.0.0.1:5000/shop" || fmt.Sprint(r.Tags) != "[latest 1795400000000001]" || r.Group != "any-upload/kiln://contexts/Shop.tar.gz" {
		t.Errorf("%+v", r)
	}
}

// Two repositories under one trigger do not supersede each other's builds; one
// repository has the short name of a group.
func TestGroups(t *testing.T) {
	one, err := Parse("f", []byte("name: a\non: {git: {repo: h/r}}"))
	if err != nil {
		t.Fatal(err)
	}
	if got := one.Match(push("h/r", "refs/heads/main"))[0].Request.Group; got != "a/refs/heads/main" {
		t.Errorf("group %s", got)
	}
	many := load(t, "testdata/full.yaml")
	a := many.Match(push("h/r", "refs/heads/main"))[0].Request.Group
	b := many.Match(push("h/s", "refs/heads/main"))[0].Request.Group
	if a == b {
		t.Errorf("two repositories share group %s", a)
	}
}

func TestDefaultSupersede(t *testing.T) {
	set, err := Parse("f", []byte("name: a\non: [{git: {repo: '*'}}, {object: {bucket: '**'}}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]events.Change{
		events.SupersedeKeepAll:          push("h/r", "refs/tags/v1"),
		events.SupersedeCancelInProgress: push("h/r", "refs/heads/main"),
	} {
		if got := set.Match(c)[0].Request.Supersede; got != want {
			t.Errorf("%s: %s", c.Name, got)
		}
	}
	if got := set.Match(upload("gs://b", "k"))[0].Request.Supersede; got != events.SupersedeCancelInProgress {
		t.Errorf("object: %s", got)
	}
}

// The deletion of a ref matches, and needs no template to work.
func TestDeletedRef(t *testing.T) {
	c := push("github.com/acme/shop", "refs/heads/main")
	c.After = zeros
	m := load(t, "testdata/full.yaml").Match(c)
	if len(m) != 2 || m[0].Err != nil || m[0].Request.Image != "" || m[0].Request.Group == "" {
		t.Errorf("%+v", m)
	}
}

// What a change brings cannot make an image another registry's, and what does
// not fit is an error of that build.
func TestUntrustedValues(t *testing.T) {
	set, err := Parse("f", []byte(`
name: a
on: [{git: {repo: '*'}}, {object: {bucket: b}}]
build: {args: {V: '{{ .Ref.Short }}{{ .Object }}'}}
push: {image: 'reg.io/team/{{ .Object }}{{ .Ref.Short }}', tags: ['{{ .Ref.Short }}{{ .Object }}']}
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, image := range map[string]string{
		"../../evil.io/x":  "", // never leads up
		"UPPER":            "",
		"a:b":              "",
		"a@sha256:00":      "",
		"a b":              "",
		"a/b":              "reg.io/team/a/b",
		"x;rm -rf":         "",
		"{{ .Commit }}":    "",
		"a//b":             "",
		"":                 "",
		"ok.v1_2":          "reg.io/team/ok.v1_2",
		"$(touch)":         "",
		"a\x00b":           "",
		"é":                "",
		"-a":               "",
		"localhost:5000/x": "",
	} {
		m := set.Match(upload("gs://b", name))[0]
		if got := m.Request.Image; (m.Err == nil) != (image != "") || got != image {
			t.Errorf("object %q: image %q, %v", name, got, m.Err)
		}
		if m.Err == nil && m.Request.Args["V"] != name {
			t.Errorf("object %q: argument %q", name, m.Request.Args["V"])
		}
	}
}

// A value that the template needs and the change lacks is an error of that
// build, not of the file.
func TestMissingMetadata(t *testing.T) {
	set, err := Parse("f", []byte("name: a\non: {object: {bucket: b}}\npush: {image: r.io/a, tags: ['{{ .Metadata.version }}']}"))
	if err != nil {
		t.Fatal(err)
	}
	c := upload("gs://b", "k")
	if m := set.Match(c)[0]; m.Err == nil || !strings.Contains(m.Err.Error(), `no entry for key "version"`) {
		t.Errorf("error %v", m.Err)
	}
	c.Metadata = map[string]string{"version": "1.2"}
	if m := set.Match(c)[0]; m.Err != nil || m.Request.Tags[0] != "1.2" {
		t.Errorf("%+v", m)
	}
	c.Metadata = map[string]string{"version": strings.Repeat("x", maxRendered+1)}
	if m := set.Match(c)[0]; m.Err == nil {
		t.Error("a template yielded more than the limit")
	}
}

func TestTemplateFunctions(t *testing.T) {
	c := push("github.com/acme/Shop", "refs/heads/Feature/X_1")
	c.Metadata = map[string]string{"defaultBranch": "main"}
	v := newVars(Trigger{Name: "t", Tenant: "acme"}, c)
	for text, want := range map[string]string{
		"plain":                                  "plain",
		"{{ .Trigger }} {{ .Tenant }}":           "t acme",
		"{{ .Repo }}|{{ .Repo.Name | lower }}":   "github.com/acme/Shop|shop",
		"{{ .Repo.Host }} {{ .Repo.Path }}":      "github.com acme/Shop",
		"{{ .Ref }} {{ .Ref.Slug }}":             "refs/heads/Feature/X_1 feature-x_1",
		"{{ .Ref.Short | replace \"/\" \"-\" }}": "Feature-X_1",
		"{{ trunc 3 \"aéb\" }}":                  "aé",
		"{{ trunc 2 \"aéb\" }}":                  "a",
		"{{ \"\" | default \"x\" }}":             "x",
		"{{ \"v1.2\" | trimPrefix \"v\" }}":      "1.2",
		"{{ \"a.tar.gz\" | stem }}":              "a",
		"{{ if eq .Ref.Short (index .Metadata \"defaultBranch\") }}latest{{ end }}": "",
		"{{ if .Ref.IsBranch }}b{{ end }}{{ if .Ref.IsTag }}t{{ end }}":             "b",
	} {
		got, err := render("x", text, v)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestSlug(t *testing.T) {
	for in, want := range map[string]string{
		"main": "main", "Feature/X": "feature-x", "1.4.2": "1.4.2", "a__b": "a-b", "a..b": "a-b", "--a--": "a", "a/-b": "a-b",
		"": "", "v1_2": "v1_2", "über": "ber", "a b": "a-b", "日本": "x-" + hash("日本"), "/": "x-" + hash("/"),
	} {
		if got := Slug(in); got != want {
			t.Errorf("Slug(%q) = %q, want %q", in, got, want)
		}
	}
	long := strings.Repeat("a", 200)
	if a, b := Slug(long), Slug(long+"b"); len(a) > maxTag || a == b {
		t.Errorf("long names: %d bytes, equal %t", len(a), a == b)
	}
	for in, want := range map[string]string{
		"v1.2": "v1.2", "Main": "Main", "a/b": "a-b", ".hidden": "hidden", "-x": "x", "": "", "..": "x-" + hash(".."), "_a": "_a",
	} {
		if got := Tag(in); got != want {
			t.Errorf("Tag(%q) = %q, want %q", in, got, want)
		}
	}
}

// A slug is a valid tag and a valid component of a repository, whatever it is made of.
func FuzzSlug(f *testing.F) {
	for _, s := range []string{"a/b", "..", "x__y", strings.Repeat("-a", 100), "日本"} {
		f.Add(s)
	}
	tag := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	f.Fuzz(func(t *testing.T, s string) {
		slug := Slug(s)
		if s != "" && (!tag.MatchString(slug) || CheckRepository("reg.io/"+slug) != nil || Slug(slug) != slug) {
			t.Errorf("Slug(%q) = %q", s, slug)
		}
		if got := Tag(s); s != "" && (!tag.MatchString(got) || Tag(got) != got) {
			t.Errorf("Tag(%q) = %q", s, got)
		}
	})
}

func TestCheckRepository(t *testing.T) {
	for _, good := range []string{"app", "a/b", "reg.io/a", "localhost/a", "localhost:5000/a", "127.0.0.1:5000/a/b-c", "REG.io/a", "[::1]:5000/a", "a--b", "a__b", "host:1/x"} {
		if err := CheckRepository(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "/a", "a/", "reg.io/", "reg.io/A", "a:b", "a/b:c", "a@b", "reg..io/a", "a/../b", "-a", "a-", "a___b", "a._b", "x/-/y", "h:x/a", "[::1/a", strings.Repeat("a", 256)} {
		if CheckRepository(bad) == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

// globOracle decides by a regular expression.
func globOracle(pattern, name string) bool {
	q := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*\*`, "\x01")
	q = strings.ReplaceAll(q, `\*`, "[^/]*")
	q = strings.ReplaceAll(q, "\x01", "(?s:.*)")
	return regexp.MustCompile("^" + q + "$").MatchString(name)
}

func TestGlob(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"*", "", true}, {"*", "a", true}, {"*", "a/b", false}, {"**", "a/b", true},
		{"a/*/c", "a/b/c", true}, {"a/*/c", "a/b/b/c", false}, {"a/**/c", "a/b/b/c", true}, {"a/**", "a", false},
		{"*.tar*", "x.tar.gz", true}, {"v*.*", "v1.2", true}, {"v*.*", "v1", false}, {"**/x*y", "a/b/xzy", true},
		{"a*b*c", "abbcbc", true}, {"**a*b", "a/axb", true}, {"**a*b", "a/b", false}, {"a", "b", false}, {"ab", "a", false},
	} {
		if got := glob(tc.pattern, tc.name); got != tc.want || got != globOracle(tc.pattern, tc.name) {
			t.Errorf("glob(%q, %q) = %t", tc.pattern, tc.name, got)
		}
	}
	long := strings.Repeat("a", 1000)
	start := time.Now()
	if glob(strings.Repeat("*a", 200)+"b", long) || glob(strings.Repeat("**a*", 100)+"b", long) {
		t.Error("a name without b matches")
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a bad pattern takes %s", took)
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("a/**/*b", "a/x/yb")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern)+len(name) > 200 || strings.Contains(pattern, "***") || !regexpText(pattern) || !regexpText(name) {
			return
		}
		if got, want := glob(pattern, name), globOracle(pattern, name); got != want {
			t.Errorf("glob(%q, %q) = %t, want %t", pattern, name, got, want)
		}
	})
}

// regexpText reports whether the oracle can be asked about s.
func regexpText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// No file makes the parser panic, and what it accepts can be matched.
func FuzzParse(f *testing.F) {
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("- &x {name: a, on: *x}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := Parse("f", data)
		if err != nil {
			return
		}
		for _, c := range []events.Change{push("github.com/acme/shop", "refs/heads/main"), upload("gs://acme-contexts", "app/x.tar.gz")} {
			for _, m := range set.Match(c) {
				if m.Err == nil && slices.Contains(m.Request.Tags, "") {
					t.Errorf("empty tag: %+v", m)
				}
			}
		}
	})
}
