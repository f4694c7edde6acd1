package build

import (
	"io/fs"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/cache"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

func contextOf(t *testing.T, files ...string) *rootfs.Mem {
	t.Helper()
	m := rootfs.NewMem()
	for _, f := range files {
		name, body, _ := strings.Cut(f, "=")
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(body, "!x") {
			mode = 0o755
		}
		if err := m.Put(rootfs.Entry{Name: name, Mode: mode}, strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// What a step depends on moves its key; what it does not depend on does not.
func TestKeys(t *testing.T) {
	zero := 0
	run := plan.Run{Args: []string{"sh", "-c", "make"}, Env: []string{"A=1", "B=2"}, User: "u", Dir: "/"}
	copied := plan.Copy{Placing: plan.Placing{Dest: "/x/"}, Paths: []string{"a"}}
	from := plan.Copy{Placing: plan.Placing{Dest: "/x/"}, From: plan.Source{Stage: &zero}, Paths: []string{"a"}}
	image := plan.Copy{Placing: plan.Placing{Dest: "/"}, From: plan.Source{Image: "i", Digest: v1.Hash{Algorithm: "sha256", Hex: "aa"}}, Paths: []string{"a"}}
	set := func(f func(*plan.Run)) plan.Op { r := run; f(&r); return r }
	setCopy := func(c plan.Copy, f func(*plan.Copy)) plan.Op { f(&c); return c }

	mounted := func(m plan.Mount) plan.Op { return set(func(r *plan.Run) { r.Mounts = []plan.Mount{m} }) }
	bind := plan.Mount{Type: plan.MountBind, Target: "/m", Source: "a"}
	bindAll := plan.Mount{Type: plan.MountBind, Target: "/m", Source: "."}
	secret := plan.Mount{Type: plan.MountSecret, ID: "s", Target: "/s"}
	bindFrom := func(s plan.Source) plan.Op {
		return mounted(plan.Mount{Type: plan.MountBind, Target: "/m", Source: "a", From: s})
	}
	inline := func(name, content string) plan.Op {
		return plan.Copy{Files: []plan.File{{Name: name, Content: content}}}
	}
	added := func(f func(*plan.Add)) plan.Op { a := plan.Add{URLs: []string{"https://a/x"}}; f(&a); return a }
	repo := func(r plan.Repo) plan.Op { return plan.Add{Repos: []plan.Repo{r}} }

	base := contextOf(t, "a=1", "b=1")
	for _, c := range []struct {
		name  string
		a, b  plan.Op
		ctx   *rootfs.Mem // of b; nil is the same
		stage byte        // key of stage 0 for b
		same  bool
	}{
		{"the same RUN", run, run, nil, 0, true},
		{"the order of variables", run, set(func(r *plan.Run) { r.Env = []string{"B=2", "A=1"} }), nil, 0, true},
		{"a proxy", run, set(func(r *plan.Run) { r.Proxy = []string{"HTTP_PROXY=x"} }), nil, 0, true},
		{"a file that a RUN does not read", run, run, contextOf(t, "a=2"), 0, true},
		{"a file that a COPY does not select", copied, copied, contextOf(t, "a=1", "b=2"), 0, true},
		{"a file that a mount does not show", mounted(bind), mounted(bind), contextOf(t, "a=1", "b=2"), 0, true},
		{"the content of a mounted file", mounted(bind), mounted(bind), contextOf(t, "a=2", "b=1"), 0, false},
		{"the mode of a file in a mounted directory", mounted(bindAll), mounted(bindAll), contextOf(t, "a=1", "b=1!x"), 0, false},
		{"another file in a mounted directory", mounted(bindAll), mounted(bindAll), contextOf(t, "a=1", "b=1", "c=1"), 0, false},
		{"a mount", run, mounted(bind), nil, 0, false},
		{"the stage that is mounted", bindFrom(plan.Source{Stage: &zero}), bindFrom(plan.Source{Stage: &zero}), nil, 1, false},
		{"the image that is mounted", bindFrom(image.From), bindFrom(plan.Source{Image: "i", Digest: v1.Hash{Algorithm: "sha256", Hex: "bb"}}), nil, 0, false},
		{"what a secret is required for", mounted(secret), mounted(plan.Mount{Type: plan.MountSecret, ID: "s", Env: "S"}), nil, 0, false},
		{"the network", run, set(func(r *plan.Run) { r.Network = "none" }), nil, 0, false},
		{"the command", run, set(func(r *plan.Run) { r.Args = []string{"sh", "-c", "make all"} }), nil, 0, false},
		{"a variable", run, set(func(r *plan.Run) { r.Env = []string{"A=1", "B=3"} }), nil, 0, false},
		{"where one argument ends", run, set(func(r *plan.Run) { r.Args = []string{"sh", "-cmake"} }), nil, 0, false},
		{"the user", run, set(func(r *plan.Run) { r.User = "v" }), nil, 0, false},
		{"the directory", run, set(func(r *plan.Run) { r.Dir = "/w" }), nil, 0, false},
		{"the content of a file", copied, copied, contextOf(t, "a=2", "b=1"), 0, false},
		{"the mode of a file", copied, copied, contextOf(t, "a=1!x", "b=1"), 0, false},
		{"the name of a file", copied, setCopy(copied, func(c *plan.Copy) { c.Paths = []string{"b"} }), nil, 0, false},
		{"the destination", copied, setCopy(copied, func(c *plan.Copy) { c.Dest = "/y/" }), nil, 0, false},
		{"the owner", copied, setCopy(copied, func(c *plan.Copy) { c.Chown = "1" }), nil, 0, false},
		{"the stage copied from", from, from, nil, 1, false},
		{"the path copied from a stage", from, setCopy(from, func(c *plan.Copy) { c.Paths = []string{"b"} }), nil, 0, false},
		{"the image copied from", image, setCopy(image, func(c *plan.Copy) { c.From.Digest.Hex = "bb" }), nil, 0, false},
		{"the URL", plan.Add{Placing: plan.Placing{Dest: "/"}, URLs: []string{"https://a/x"}}, plan.Add{Placing: plan.Placing{Dest: "/"}, URLs: []string{"https://a/y"}}, nil, 0, false},
		{"what is left out", from, setCopy(from, func(c *plan.Copy) { c.Skip = []string{"*.md"} }), nil, 0, false},
		{"where parents begin", from, setCopy(from, func(c *plan.Copy) { c.Parents = []string{"."} }), nil, 0, false},
		{"the content of a heredoc", inline("a", "1"), inline("a", "2"), nil, 0, false},
		{"the name of a heredoc", inline("a", "1"), inline("b", "1"), nil, 0, false},
		{"the checksum", added(func(a *plan.Add) { a.Checksum = "sha256:1" }), added(func(a *plan.Add) { a.Checksum = "sha256:2" }), nil, 0, false},
		{"whether it is unpacked", added(func(a *plan.Add) {}), added(func(a *plan.Add) { a.Unpack = new(bool) }), nil, 0, false},
		{"the commit", repo(plan.Repo{Commit: "aa"}), repo(plan.Repo{Commit: "bb"}), nil, 0, false},
		{"the ref", repo(plan.Repo{Ref: "a"}), repo(plan.Repo{Ref: "b"}), nil, 0, false},
		{"the directory of a repository", repo(plan.Repo{}), repo(plan.Repo{Subdir: "b"}), nil, 0, false},
		{"whether there is a .git", repo(plan.Repo{}), repo(plan.Repo{KeepGitDir: true}), nil, 0, false},
		{"the kind of step", plan.Workdir{Path: "/x"}, plan.Workdir{Path: "/x", User: "u"}, nil, 0, false},
	} {
		a := keyOf(t, base, 0, c.a)
		ctx := base
		if c.ctx != nil {
			ctx = c.ctx
		}
		if b := keyOf(t, ctx, c.stage, c.b); (a == b) != c.same {
			t.Errorf("%s: keys are equal: %t, want %t", c.name, a == b, c.same)
		}
	}
}

func keyOf(t *testing.T, context rootfs.FS, first byte, op plan.Op) cache.Key {
	t.Helper()
	b := &builder{Options: Options{Context: context}}
	b.stages = []*stage{{builder: b, key: cache.NewKey([]byte{first})}}
	s := &stage{builder: b, index: 1, key: cache.NewKey([]byte("start"))}
	if err := s.advance(op); err != nil {
		t.Fatal(err)
	}
	return s.key
}

// Only what is needed is made: layers of the stages that the image stands on,
// and copies of the paths that later stages ask for.
func TestUses(t *testing.T) {
	zero, one := 0, 1
	p := &plan.Plan{Stages: []plan.Stage{
		{Steps: []plan.Step{{Op: plan.Run{}}}},
		{Steps: []plan.Step{{Op: plan.Copy{From: plan.Source{Stage: &zero}, Paths: []string{"a", "b"}}}}},
		{Base: plan.Base{Stage: &one}, Steps: []plan.Step{{Op: plan.Copy{From: plan.Source{Stage: &zero}, Paths: []string{"c"}}},
			{Op: plan.Run{Mounts: []plan.Mount{{Type: plan.MountBind, From: plan.Source{Stage: &zero}, Source: "d"}}}}}},
	}}
	b := &builder{plan: p}
	for i := range p.Stages {
		b.stages = append(b.stages, b.newStage(i))
	}
	b.fillUses()
	got := b.stages
	if u := got[0].use; u.layers || u.base || strings.Join(u.copied, " ") != "c d a b" {
		t.Errorf("stage 0 is used for %+v", u)
	}
	if !got[1].use.layers || !got[1].use.base || !got[2].use.layers || got[2].use.base {
		t.Errorf("stages 1 and 2 are used for %+v and %+v", got[1].use, got[2].use)
	}
	if got[0].onDisk(0) != true || got[1].onDisk(0) != true || got[1].onDisk(1) != true || got[2].onDisk(2) {
		t.Error("files are needed where something runs, in the stages below, and where something is copied")
	}
}

// What the cache has needs nothing.
func TestUsesOfHits(t *testing.T) {
	zero, one := 0, 1
	p := &plan.Plan{Stages: []plan.Stage{
		{Steps: []plan.Step{{Op: plan.Run{}}}},
		{Base: plan.Base{Stage: &zero}, Steps: []plan.Step{{Op: plan.Run{}}, {Op: plan.Copy{Paths: []string{"x"}}}}},
		{Steps: []plan.Step{{Op: plan.Copy{From: plan.Source{Stage: &one}, Paths: []string{"a"}}}, {Op: plan.Run{}}, {Op: plan.Copy{}}}},
	}}
	b := &builder{plan: p}
	for i := range p.Stages {
		b.stages = append(b.stages, b.newStage(i))
	}
	hit := foreseen{entry: cache.Entry{Empty: true}}
	b.stages[2].ahead = []foreseen{hit, hit}
	b.fillUses()
	if b.stages[0].use.needed() || b.stages[1].use.needed() || !b.stages[2].use.needed() {
		t.Errorf("stages are used for %+v, %+v, %+v", b.stages[0].use, b.stages[1].use, b.stages[2].use)
	}
	if b.stages[2].onDisk(0) {
		t.Error("files are needed though the cache has what is run")
	}
	if len(b.stages[2].waitsFor()) != 0 {
		t.Error("the last stage waits for what it does not need")
	}
}

// The key of a layer that stands alone does not depend on what was there; that
// of what comes after it does.
func TestLinkKeys(t *testing.T) {
	b := &builder{Options: Options{Context: contextOf(t, "a=1")}}
	keys := func(before string, link bool) (layer, after cache.Key) {
		s := &stage{builder: b, key: cache.NewKey([]byte(before))}
		if err := s.advance(plan.Copy{Paths: []string{"a"}, Placing: plan.Placing{Dest: "/", Link: link}}); err != nil {
			t.Fatal(err)
		}
		return s.layerKey, s.key
	}
	l1, a1 := keys("one", true)
	l2, a2 := keys("two", true)
	if l1 != l2 || a1 == a2 || l1 == a1 {
		t.Errorf("layers %s %s, states %s %s", l1, l2, a1, a2)
	}
	l3, a3 := keys("one", false)
	if l3 != a3 || l3 == l1 {
		t.Errorf("an ordinary copy has the layer key %s and the state %s", l3, a3)
	}
}
