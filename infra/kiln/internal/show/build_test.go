package show

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/golden"
	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/imagediff"
	"github.com/kilnhook/kiln/infra/local/api"
)

// built is a build with everything that can be said of one.
func built(commit, digest string, took time.Duration) api.Build {
	at := clock().Add(-time.Hour).UTC()
	event := json.RawMessage(`{"id":"o9279ihk7gifcp87vrmnsrj2b4.finished","type":"dev.kilnhook.build.finished.v1"}`)
	return api.Build{
		ID: "o9279ihk7gifcp87vrmnsrj2b4", State: api.StateFinished, Event: &event,
		Request: events.Request{
			Trigger: "shop", Tenant: "acme", Image: "r.example.com/shop", Tags: []string{"main", "v1"}, Target: "prod", Dockerfile: "Dockerfile",
			Args: map[string]string{"VERSION": commit[:3]}, RequestedAt: at,
			Change: events.Change{Kind: events.KindGit, Location: "github.com/acme/shop", Name: "refs/heads/main", After: strings.Repeat(commit, 10)},
		},
		Result: &events.Result{
			Outcome: events.OutcomeSuccess, Digest: "sha256:" + strings.Repeat(digest, 16), Size: 43_000_000, Platform: "linux/amd64", Isolation: "overlay",
			StartedAt: at, FinishedAt: at.Add(took), DurationMS: map[string]int64{"build": 1500, "fetch": 20}, Cache: events.CacheInfo{Hits: 1, Misses: 2},
			Bases:  []events.BaseInfo{{Ref: "debian:12", Digest: "sha256:" + strings.Repeat("d", 64)}},
			Layers: []events.LayerInfo{{Digest: "sha256:" + strings.Repeat("1", 64), Size: 42_000_000, CreatedBy: "base"}, {Digest: "sha256:" + strings.Repeat("2", 64), Size: 1_000_000, CreatedBy: "COPY . . # \x1b[31mbuildkit"}},
		},
	}
}

// A build is described by what was asked for, what became of it, and what its log
// tells of steps and layers.
func TestBuild(t *testing.T) {
	var story Story
	for _, line := range []string{
		`{"kind":"step","id":"1.0","name":"[app 1/3] FROM debian:12","state":"started"}`,
		`{"kind":"step","id":"1.0","state":"done","ms":1200}`,
		`{"kind":"step","id":"1.1","name":"[app 2/3] COPY . .","state":"done","ms":30,"cache":"miss","reason":"no entry"}`,
		`{"kind":"step","id":"1.2","name":"[app 3/3] RUN \u001b[2Jmake","state":"cached"}`,
		`{"kind":"layer","id":"1.1","layer":{"digest":"sha256:` + strings.Repeat("2", 64) + `","size":1000000,"contents":{"files":3,"bytes":2000000,"largest":[{"path":"app/main","size":1900000},{"path":"app/a\u001b[2J","size":100000}]}}}`,
		"not JSON",
	} {
		if err := story.Add([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := Build(&out, built("a1b2", "0123", 2*time.Second), story, clock()); err != nil {
		t.Fatal(err)
	}
	failed := built("a1b2", "0123", time.Second)
	failed.Result = &events.Result{Outcome: events.OutcomeFailed, Class: events.ClassBuild, Message: "Dockerfile:2: no\n\x1b[31mlast words", StartedAt: clock(), FinishedAt: clock()}
	out.WriteString("\n-- failed --\n")
	if err := Build(&out, failed, Story{}, clock()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("it controls the terminal")
	}
	golden.Equal(t, "build.txt", out.String())
}

// A difference names what was asked for, configuration, layers and the files that grew
// or shrank most.
func TestDiff(t *testing.T) {
	was, is := built("a1b2", "0123", 2*time.Second), built("c3d4", "4567", 3*time.Second)
	d := imagediff.Diff{
		Config: []imagediff.Setting{{Name: "Env PATH", Was: "/bin", Is: "/usr/bin\x1b[2J"}, {Name: "User", Is: `"app"`}},
		Layers: []imagediff.Layer{
			{Digest: "sha256:" + strings.Repeat("1", 64), Size: 42_000_000, In: imagediff.InBoth},
			{Digest: "sha256:" + strings.Repeat("2", 64), Size: 1_000_000, CreatedBy: "COPY . .", In: imagediff.OnlyWas},
			{Digest: "sha256:" + strings.Repeat("3", 64), Size: 2_000_000, CreatedBy: "COPY . .", In: imagediff.OnlyIs},
		},
		Files: []imagediff.Change{
			{Path: "app/main", Kind: imagediff.Changed, Was: &imagediff.File{Type: "file", Mode: 0o644, Size: 100, Sum: "a"}, Is: &imagediff.File{Type: "file", Mode: 0o755, UID: 7, Size: 1_000_100, Sum: "b"}},
			{Path: "app/new", Kind: imagediff.Added, Is: &imagediff.File{Type: "file", Size: 1000}},
			{Path: "app/old", Kind: imagediff.Removed, Was: &imagediff.File{Type: "symlink", Target: "x"}},
		},
		Size: imagediff.Sizes{Was: 43_000_000, Is: 44_000_000},
	}
	var out bytes.Buffer
	if err := Diff(&out, Sides{First: "r/shop@a", Second: "r/shop@b", Was: &was, Is: &is}, d, 2); err != nil {
		t.Fatal(err)
	}
	out.WriteString("\n-- the same --\n")
	if err := Diff(&out, Sides{First: "r/shop@a", Second: "r/shop@a"}, imagediff.Diff{}, 0); err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "diff.txt", out.String())
}
