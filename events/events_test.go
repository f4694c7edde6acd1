package events_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/kilnhook/kiln/events"
)

const (
	commitA = "a10867b14bb761a232cd80139fbd4c0d33264240"
	commitB = "199eddf46df50de8d02e99bf1c5fdb4101338224"
	zeros   = "0000000000000000000000000000000000000000"
	digestX = "sha256:0b31b1c02ff458ad9b7b81cbdf8f028bd54699fa151f221d1e8de6817db93427"
)

func gitChange() events.Change {
	return events.Change{
		Kind: events.KindGit, Location: "github.com/acme/shop", Name: "refs/heads/main",
		Before: commitA, After: commitB, Delivery: "72d3162e-cc78-11e3-81ab-4c9367dc0958",
		Time: at("2026-11-23T07:38:00Z"), CloneURL: "https://github.com/acme/shop.git",
	}
}

func objectChange() events.Change {
	return events.Change{
		Kind: events.KindObject, Location: "gs://acme-contexts", Name: "app/ctx.tar.gz",
		Generation: "1587627537231057", Size: 10485760, ContentType: "application/gzip",
		Metadata: map[string]string{"kiln-trigger": "app"},
		Delivery: "7408162483014213", Time: at("2026-11-23T07:38:57.23Z"),
	}
}

func gitRequest() events.Request {
	r := events.Request{
		Install: "prod", Tenant: "acme", Trigger: "app", Sequence: 7, Group: "app/refs/heads/main",
		Change: gitChange(), Context: "git://github.com/acme/shop.git#refs/heads/main#" + commitB,
		ContextSubPath: "services/app", Dockerfile: "Dockerfile", Target: "prod",
		Args:   map[string]string{"VERSION": "main-199eddf46df5", "CHANNEL": "stable"},
		Labels: map[string]string{"org.opencontainers.image.revision": commitB},
		Image:  "eu-docker.pkg.dev/acme/img/app", Tags: []string{"main", commitB},
		Timeout: 30 * time.Minute, Supersede: events.SupersedeCancelInProgress,
		RequestedAt: at("2026-11-23T07:38:01.5Z"), Attempt: 1,
		TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}
	r.BuildID = r.DeriveBuildID()
	return r
}

func objectRequest() events.Request {
	r := gitRequest()
	r.Change, r.Sequence, r.Group = objectChange(), 1, "app/gs://acme-contexts/app/ctx.tar.gz"
	r.Context, r.TraceParent = "gs://acme-contexts/app/ctx.tar.gz", ""
	r.BuildID = r.DeriveBuildID()
	return r
}

func successResult() events.Result {
	return events.Result{
		Outcome: events.OutcomeSuccess, Digest: digestX,
		MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 48211034,
		Repository: "eu-docker.pkg.dev/acme/img/app", Tags: []string{"main", commitB},
		Layers: []events.LayerInfo{{Digest: digestX, Size: 1024, CreatedBy: "COPY . /"}},
		Bases:  []events.BaseInfo{{Ref: "docker.io/library/golang:1.26", Digest: digestX}}, Platform: "linux/arm/v7",
		Isolation: "overlay", Cache: events.CacheInfo{Hits: 14, Misses: 3},
		StartedAt: at("2026-11-23T07:39:00Z"), FinishedAt: at("2026-11-23T07:41:02.11Z"),
		DurationMS: map[string]int64{"fetch": 800, "build": 58000, "push": 4100},
	}
}

func failedResult() events.Result {
	return events.Result{
		Outcome: events.OutcomeFailed, Class: events.ClassBuild, Reason: "RUN failed",
		Message:   "Dockerfile:7: RUN make: exit status 2\nfatal: https://bot:hunter2@example.com/x.git: gone",
		StartedAt: at("2026-11-23T07:39:00Z"), FinishedAt: at("2026-11-23T07:39:10Z"), ExitCode: 2,
	}
}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t
}

// The two vectors of the specification of build ids.
func TestBuildIDVectors(t *testing.T) {
	for _, tc := range []struct {
		parts []string
		want  string
	}{
		{[]string{"app", "git", "github.com/acme/shop", "refs/heads/main", "7", commitB, "0"}, "b4fqlqs6nuner3bfunf5738b7r"},
		{[]string{"app", "object", "gs://acme-contexts", "app/ctx.tar.gz", "1587627537231057", "0"}, "o9279ihk7gifcp87vrmnsrj2b4"},
	} {
		got := events.BuildID(tc.parts...)
		if got != tc.want {
			t.Errorf("BuildID(%q) = %s, want %s", tc.parts, got, tc.want)
		}
		if !events.IsBuildID(got) {
			t.Errorf("IsBuildID(%q) = false", got)
		}
	}
	if got := gitRequest().BuildID; got != "b4fqlqs6nuner3bfunf5738b7r" {
		t.Errorf("id derived from a git request = %s", got)
	}
	if got := objectRequest().BuildID; got != "o9279ihk7gifcp87vrmnsrj2b4" {
		t.Errorf("id derived from an object request = %s", got)
	}
}

// Parts moved across a border, and a rebuild, are other builds.
func TestBuildIDDoesNotCollide(t *testing.T) {
	seen := map[string][]string{}
	for _, parts := range [][]string{
		{"a", "bc"}, {"ab", "c"}, {"abc"}, {"a", "b", "c"}, {"a", "bc", ""}, {"", "a", "bc"}, {"1:a,", ""}, {},
	} {
		id := events.BuildID(parts...)
		if other, dup := seen[id]; dup {
			t.Errorf("%q and %q give the same id", parts, other)
		}
		seen[id] = parts
	}
	r := gitRequest()
	r.Nonce++
	if r.DeriveBuildID() == gitRequest().BuildID {
		t.Error("a rebuild has the id of the first build")
	}
}

func TestIsBuildIDRefusesPaths(t *testing.T) {
	for _, s := range []string{"", "..", "b4fqlqs6nuner3bfunf5738b7", "b4fqlqs6nuner3bfunf5738b7rr", "B4FQLQS6NUNER3BFUNF5738B7R", "b4fqlqs6nuner3bfunf57/../r"} {
		if events.IsBuildID(s) {
			t.Errorf("IsBuildID(%q) = true", s)
		}
	}
}

// What differs between deliveries of one change does not change its key; what
// makes another change does.
func TestChangeKey(t *testing.T) {
	same := gitChange()
	same.Delivery, same.Time, same.CloneURL, same.Metadata = "other", time.Time{}, "ssh://x", map[string]string{"a": "b"}
	if same.Key() != gitChange().Key() {
		t.Error("delivery, time, URL or metadata changed the key of a git change")
	}
	for name, mutate := range map[string]func(*events.Change){
		"after":    func(c *events.Change) { c.After = commitA },
		"before":   func(c *events.Change) { c.Before = zeros },
		"ref":      func(c *events.Change) { c.Name = "refs/heads/dev" },
		"location": func(c *events.Change) { c.Location = "github.com/acme/sho" },
	} {
		c := gitChange()
		mutate(&c)
		if c.Key() == gitChange().Key() {
			t.Errorf("another %s has the same key", name)
		}
	}
	o := objectChange()
	o.Generation = "1587627537231058"
	if o.Key() == objectChange().Key() {
		t.Error("another generation has the same key")
	}
}

func TestChangeRevision(t *testing.T) {
	c := gitChange()
	if got := c.Revision(); got != commitB {
		t.Errorf("branch: %s", got)
	}
	c.Commit = commitA
	if got := c.Revision(); got != commitA {
		t.Errorf("annotated tag: %s, want the commit", got)
	}
	c.After = zeros
	if got := c.Revision(); got != "" || !c.Deleted() {
		t.Errorf("deleted ref: revision %q, deleted %t", got, c.Deleted())
	}
	c = gitChange()
	c.Before = strings.Repeat("0", 64)
	if !c.Created() {
		t.Error("64 zeros before are not taken as a creation")
	}
	if objectChange().Deleted() || objectChange().Revision() != "" {
		t.Error("an object was taken for a ref")
	}
}

func TestValidateSaysWhatIsWrong(t *testing.T) {
	change := func(f func(*events.Change)) error { c := gitChange(); f(&c); return c.Validate() }
	object := func(f func(*events.Change)) error { c := objectChange(); f(&c); return c.Validate() }
	request := func(f func(*events.Request)) error { r := gitRequest(); f(&r); return r.Validate() }
	result := func(f func(*events.Result)) error { r := successResult(); f(&r); return r.Validate() }
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"good change":      {gitChange().Validate(), ""},
		"good sha256":      {change(func(c *events.Change) { c.Before = strings.Repeat("a", 64) }), ""},
		"good request":     {gitRequest().Validate(), ""},
		"good result":      {successResult().Validate(), ""},
		"kind":             {change(func(c *events.Change) { c.Kind = "svn" }), `"svn"`},
		"location":         {change(func(c *events.Change) { c.Location = "" }), "no location"},
		"name":             {change(func(c *events.Change) { c.Name = "" }), "no name"},
		"short ref":        {change(func(c *events.Change) { c.Name = "main" }), "full name"},
		"ref with space":   {change(func(c *events.Change) { c.Name = "refs/heads/a b" }), "full name"},
		"ref with ..":      {change(func(c *events.Change) { c.Name = "refs/heads/../x" }), "full name"},
		"ref with newline": {change(func(c *events.Change) { c.Name = "refs/heads/a\nb" }), "full name"},
		"ref with nothing": {change(func(c *events.Change) { c.Name = "refs/" }), "full name"},
		"ref .lock":        {change(func(c *events.Change) { c.Name = "refs/heads/a.lock" }), "full name"},
		"good odd ref":     {change(func(c *events.Change) { c.Name = "refs/heads/-a@b#1/é" }), ""},
		"id":               {change(func(c *events.Change) { c.After = "abc" }), "40 or 64"},
		"upper id":         {change(func(c *events.Change) { c.After = strings.ToUpper(commitB) }), "40 or 64"},
		"option as id":     {change(func(c *events.Change) { c.Commit = "--upload-pack=x" }), "commit"},
		"generation":       {object(func(c *events.Change) { c.Generation = "" }), "no generation"},
		"size":             {object(func(c *events.Change) { c.Size = -1 }), "size -1"},
		"build id":         {request(func(r *events.Request) { r.BuildID = "../x" }), "build id"},
		"trigger":          {request(func(r *events.Request) { r.Trigger = "" }), "no trigger"},
		"context":          {request(func(r *events.Request) { r.Context = "" }), "no context"},
		"timeout":          {request(func(r *events.Request) { r.Timeout = -1 }), "negative"},
		"supersede":        {request(func(r *events.Request) { r.Supersede = "all" }), `"all"`},
		"request, change":  {request(func(r *events.Request) { r.Change.Kind = "" }), "kind of change"},
		"outcome":          {result(func(r *events.Result) { r.Outcome = "ok" }), `"ok"`},
		"class":            {result(func(r *events.Result) { r.Class = "bad" }), `"bad"`},
		"digest":           {result(func(r *events.Result) { r.Digest = "sha256:00" }), "64 hex"},
	} {
		switch {
		case tc.want == "" && tc.err != nil:
			t.Errorf("%s: %v", name, tc.err)
		case tc.want != "" && (tc.err == nil || !strings.Contains(tc.err.Error(), tc.want)):
			t.Errorf("%s: error %v, want one with %q", name, tc.err, tc.want)
		}
	}
}

// Every field of a request, result and change survives JSON. The test fills the
// fields by reflection, so that a new field that is not written is noticed.
func TestJSONRoundTripOfEveryField(t *testing.T) {
	for _, v := range []any{&events.Request{}, &events.Result{}, &events.Change{}, &events.Progress{}, &events.Finished{}, &events.Lifecycle{}, &events.Rejected{}} {
		fill(reflect.ValueOf(v).Elem(), 1)
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%T: %v", v, err)
		}
		back := reflect.New(reflect.TypeOf(v).Elem()).Interface()
		if err := json.Unmarshal(data, back); err != nil {
			t.Fatalf("%T: %v", v, err)
		}
		if !reflect.DeepEqual(v, back) {
			t.Errorf("%T changed:\n wrote %+v\n read  %+v\n as    %s", v, v, back, data)
		}
	}
}

// fill gives every field below v a value that is not zero.
func fill(v reflect.Value, n int) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Unix(1795400000+int64(n), 5).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("s" + string(rune('a'+n%26)))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n) * int64(time.Second))
	case reflect.Uint64:
		v.SetUint(uint64(n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(elem, n)
		v.SetMapIndex(key, elem)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n+i)
		}
	default:
		panic("no value for " + v.Type().String())
	}
}

// A later version may add fields; this one reads on.
func TestUnknownFieldsAreTolerated(t *testing.T) {
	var req events.Request
	if err := json.Unmarshal([]byte(`{"buildId":"b4fqlqs6nuner3bfunf5738b7r","colour":"red","change":{"kind":"git","mood":1},"timeoutSeconds":1.5}`), &req); err != nil {
		t.Fatal(err)
	}
	if req.Timeout != 1500*time.Millisecond || req.Change.Kind != "git" {
		t.Errorf("read %+v", req)
	}
	var fin events.Finished
	if err := json.Unmarshal([]byte(`{"outcome":"success","logs":{"url":"x"},"image":{"repository":"r","cosign":true}}`), &fin); err != nil {
		t.Fatal(err)
	}
}

func TestTimeoutOutOfRangeIsAnError(t *testing.T) {
	for _, s := range []string{`{"timeoutSeconds":-1}`, `{"timeoutSeconds":1e300}`} {
		var req events.Request
		if err := json.Unmarshal([]byte(s), &req); err == nil {
			t.Errorf("%s was accepted as %s", s, req.Timeout)
		}
	}
}

func TestCleanText(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		max  int
		want string
	}{
		"plain":          {"exit status 2", 100, "exit status 2"},
		"invalid utf-8":  {"a\xff\xfeb", 100, "a\uFFFDb"},
		"controls":       {"a\x00b\rc\td\ne", 100, "abc\td\ne"},
		"colour":         {"\x1b[31mred\x1b[0m plain\x1b", 100, "red plain"},
		"cut colour":     {"x\x1b[31", 100, "x"},
		"password":       {"get https://u:p%40@h/x, then git://h/y", 100, "get https://***@h/x, then git://h/y"},
		"at in password": {"http://u:p@ss@h", 100, "http://***@h"},
		"at in path":     {"https://h/a@b and repo@sha256:00", 100, "https://h/a@b and repo@sha256:00"},
		"two passwords":  {"a://b@c d://e@f", 100, "a://***@c d://***@f"},
		"cut":            {"0123456789", 8, "01234…"},
		"cut in rune":    {"0123éééé", 8, "0123…"},
		"exact":          {"01234567", 8, "01234567"},
		"tiny":           {"0123", 2, ""},
		"space":          {"  a \n", 9, "a"},
	} {
		if got := events.CleanText(tc.in, tc.max); got != tc.want {
			t.Errorf("%s: CleanText(%q, %d) = %q, want %q", name, tc.in, tc.max, got, tc.want)
		}
	}
	huge := events.CleanText(strings.Repeat("é", 1<<20), events.MaxMessage)
	if len(huge) > events.MaxMessage || len(huge) < events.MaxMessage-4 {
		t.Errorf("a long text became %d bytes", len(huge))
	}
}

func FuzzCleanText(f *testing.F) {
	f.Add("https://u:p@h/x\x1b[31m\xff", 20)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit < 0 || limit > 1<<16 {
			return
		}
		got := events.CleanText(s, limit)
		if len(got) > limit || !utf8.ValidString(got) || strings.ContainsRune(got, 0x1b) {
			t.Errorf("CleanText(%q, %d) = %q", s, limit, got)
		}
	})
}

func TestRepoLocation(t *testing.T) {
	for in, want := range map[string]string{
		"https://GitHub.com/acme/shop.git":          "github.com/acme/shop",
		"https://bot:hunter2@github.com/acme/shop/": "github.com/acme/shop",
		"https://github.com:443/acme/shop":          "github.com/acme/shop",
		"http://127.0.0.1:3000/app.git":             "127.0.0.1:3000/app",
		"git@github.com:Acme/Shop.git":              "github.com/Acme/Shop",
		"ssh://git@host:2222/srv/git/shop.git":      "host:2222/srv/git/shop",
		"git://host/srv/git/shop.git":               "host/srv/git/shop",
		"host/srv/git/shop.git":                     "host/srv/git/shop",
		"localhost:8080/shop":                       "localhost:8080/shop",
	} {
		if got, err := events.RepoLocation(in); err != nil || got != want {
			t.Errorf("RepoLocation(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "host", "https://", "https:///x", "https://h/../x", "https://h/a//b", "https://h/a b", "https://u:hunter2@h/", "h/a?b"} {
		got, err := events.RepoLocation(bad)
		if err == nil {
			t.Errorf("RepoLocation(%q) = %q", bad, got)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

// Orders are compared as numbers of any length, in hex as in decimal.
func TestCompareOrder(t *testing.T) {
	object := func(generation, order string) events.Change {
		return events.Change{Kind: events.KindObject, Generation: generation, Order: order}
	}
	for _, tc := range []struct {
		a, b  events.Change
		sign  int
		known bool
	}{
		{object("9", ""), object("10", ""), -1, true},
		{object("0010", ""), object("9", ""), 1, true},
		{object("7", ""), object("007", ""), 0, true},
		{object("v1", "0055AED6DCD90281E5"), object("v2", "55aed6dcd90281e6"), -1, true},
		{object("v1", "ff"), object("v2", "100"), -1, true},
		{object("v1", ""), object("v2", ""), 0, false},
		{object("abc", ""), object("abd", ""), 0, false},
		{object("1", "zz"), object("2", ""), 0, false},
	} {
		got, known := tc.a.CompareOrder(tc.b)
		if known != tc.known || (got < 0) != (tc.sign < 0) || (got > 0) != (tc.sign > 0) {
			t.Errorf("CompareOrder(%+v, %+v) = %d, %t", tc.a, tc.b, got, known)
		}
	}
}

// Values of build arguments that a builder left in the history go no further.
func TestCleanRemovesArgumentValues(t *testing.T) {
	for in, want := range map[string]string{
		"RUN |1 TOKEN=hunter2 /bin/sh -c make # buildkit": "RUN /bin/sh -c make # buildkit",
		"|2 A=x y B=hunter2 /bin/sh -c make":              "/bin/sh -c make",
		"RUN |1 TOKEN=hunter2 bash -c make":               "RUN",
		"COPY a|b /":                                      "COPY a|b /",
	} {
		res := events.Result{Outcome: events.OutcomeSuccess, Layers: []events.LayerInfo{{CreatedBy: in}}}
		if got := res.Clean().Layers[0].CreatedBy; got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
		if res.Layers[0].CreatedBy != in {
			t.Error("Clean changed its receiver's layers")
		}
		if !reflect.DeepEqual(res.Clean().Clean(), res.Clean()) {
			t.Error("cleaning twice is not cleaning once")
		}
	}
}

func FuzzRepoLocation(f *testing.F) {
	f.Add("https://u:p@h:443/a/b.git")
	f.Add("git@h:a")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := events.RepoLocation(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(got, "@ \n") && !strings.Contains(got[strings.IndexByte(got, '/'):], "@") {
			t.Errorf("RepoLocation(%q) = %q", s, got)
		}
		for _, part := range strings.Split(got, "/") {
			if part == "" || part == ".." {
				t.Errorf("RepoLocation(%q) = %q", s, got)
			}
		}
	})
}
