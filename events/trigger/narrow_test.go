package trigger

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
)

func parse(t *testing.T, text string) Set {
	t.Helper()
	set, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const narrowable = `
name: app
on: {git: {repo: h/r, narrowedBy: .kiln.yaml}}
push: {image: reg.io/app, tags: [latest, "{{ .Ref.Slug }}", v1]}
run: {timeout: 30m, resources: {memory: 4Gi}}
`

func TestNarrowing(t *testing.T) {
	m := parse(t, narrowable).Match(push("h/r", "refs/heads/main"))[0]
	if m.NarrowedBy() != ".kiln.yaml" {
		t.Errorf("narrowed by %q", m.NarrowedBy())
	}
	for name, tc := range map[string]struct {
		in, skip, err string
		files         []string
		ok            func(events.Request) bool
	}{
		"empty":          {in: "", ok: func(r events.Request) bool { return len(r.Tags) == 3 && r.Timeout == 30*time.Minute }},
		"skip":           {in: "skip: true", skip: ".kiln.yaml says skip"},
		"skip another":   {in: "triggers: [other]\nskip: true", ok: func(r events.Request) bool { return len(r.Tags) == 3 }},
		"refs":           {in: "refs: [release/*]", skip: "limits refs to release/*"},
		"refs match":     {in: "refs: [main]", ok: func(r events.Request) bool { return len(r.Tags) == 3 }},
		"paths":          {in: "paths: ['src/**']", files: []string{"README.md"}, skip: "no file that .kiln.yaml names"},
		"paths match":    {in: "paths: ['src/**']", files: []string{"src/a/b.go"}, ok: func(r events.Request) bool { return true }},
		"paths unknown":  {in: "paths: ['src/**']", ok: func(r events.Request) bool { return true }},
		"tags":           {in: "tags: ['v*']", ok: func(r events.Request) bool { return slices.Equal(r.Tags, []string{"v1"}) }},
		"timeout":        {in: "timeout: 5m", ok: func(r events.Request) bool { return r.Timeout == 5*time.Minute }},
		"memory":         {in: "resources: {memory: 1Gi}", ok: func(r events.Request) bool { return r.Resources.Memory == 1<<30 }},
		"longer":         {in: "refs: [main]\ntimeout: 1h", err: ".kiln.yaml:2: timeout 1h0m0s is more than the trigger allows, 30m0s"},
		"more memory":    {in: "resources: {memory: 8Gi}", err: ".kiln.yaml:1: resources.memory 8589934592 is more than"},
		"other platform": {in: "platforms: linux/arm64", err: "platform linux/arm64 is more than the trigger allows, the executor's own"},
	} {
		n, err := ParseNarrowing(".kiln.yaml", []byte(tc.in))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, skip, err := n.Apply(m, tc.files)
		switch {
		case tc.err != "":
			if _, ok := errors.AsType[*Error](err); !ok || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: error %v", name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.skip != "":
			if !strings.Contains(skip, tc.skip) {
				t.Errorf("%s: skip %q", name, skip)
			}
		case skip != "" || !tc.ok(got.Request):
			t.Errorf("%s: skip %q, request %+v", name, skip, got.Request)
		}
	}
	if _, err := ParseNarrowing("f", []byte("a: b\n---\nc: d")); err == nil {
		t.Error("two documents are taken")
	}
}

// Whatever a repository writes, its build never gets more than the trigger gives.
func FuzzNarrowing(f *testing.F) {
	for _, seed := range []string{"", "skip: true", "timeout: 99h", "- tags: ['*']\n- resources: {cpu: 9}", "platforms: x/y", "a: &a {b: *a}"} {
		f.Add([]byte(seed))
	}
	set, err := Parse("f", []byte(narrowable))
	if err != nil {
		f.Fatal(err)
	}
	m := set.Match(push("h/r", "refs/heads/main"))[0]
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := ParseNarrowing("f", data)
		if err != nil {
			return
		}
		got, skip, err := n.Apply(m, []string{"a"})
		if err != nil || skip != "" {
			return
		}
		r, was := got.Request, m.Request
		if r.Timeout > was.Timeout || r.Resources.Memory > was.Resources.Memory || r.Image != was.Image || r.Platform != was.Platform ||
			slices.ContainsFunc(r.Tags, func(tag string) bool { return !slices.Contains(was.Tags, tag) }) {
			t.Errorf("widened: %+v", r)
		}
	})
}

func TestPathFilters(t *testing.T) {
	set := parse(t, `
- name: filtered
  on: {git: {repo: h/r, paths: ["services/app/**", "!**/*.md"], extraPaths: [go.mod, libs/]}}
- name: open
  on: [{git: {repo: h/r, paths: [x]}}, {git: {repo: h/r}}]
`)
	matches := set.Match(push("h/r", "refs/heads/main"))
	filtered, open := matches[0], matches[1]
	if !filtered.NeedsFiles() || open.NeedsFiles() {
		t.Errorf("need files: %v, %v", filtered.NeedsFiles(), open.NeedsFiles())
	}
	for file, want := range map[string]bool{
		"services/app/main.go": true, "services/app/doc/x.md": false, "services/web/main.go": false,
		"go.mod": true, "libs/a/b.go": true, "libs": false, "sub/go.mod": false,
	} {
		if _, ok := filtered.MatchesFiles([]string{"other", file}); ok != want {
			t.Errorf("%s: %v", file, ok)
		}
	}
	if _, ok := open.MatchesFiles([]string{"other"}); !ok {
		t.Error("a source without a filter does not let the change through")
	}
	deleted := push("h/r", "refs/heads/main")
	deleted.After = zeros
	if set.Match(deleted)[0].NeedsFiles() {
		t.Error("a deletion needs files")
	}
}

func TestObjectMetadata(t *testing.T) {
	set := parse(t, "name: a\non: {object: {bucket: gs://b, metadata: {Team: 'app-*'}}}")
	c := upload("gs://b", "x.tar")
	for value, want := range map[string]int{"app-1": 1, "web": 0, "": 0} {
		c.Metadata = map[string]string{"team": value}
		if got := len(set.Match(c)); got != want {
			t.Errorf("%q: %d matches", value, got)
		}
	}
}

func TestBaseImages(t *testing.T) {
	for in, want := range map[string]string{
		"golang": "docker.io/library/golang:latest", "index.docker.io/library/golang:1.26": "docker.io/library/golang:1.26",
		"a/b@sha256:" + strings.Repeat("0", 64): "docker.io/a/b:latest", "localhost:5000/x:y": "localhost:5000/x:y", "gcr.io/**:nonroot": "gcr.io/**:nonroot",
	} {
		if got, err := ImageName(in); err != nil || got != want {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	set := parse(t, "- name: auto\n  on: [{git: {repo: h/r}}, {base: {images: auto, rate: 10/h}}]\n- name: some\n  on: [{git: {repo: h/r}}, {base: {images: ['golang:1.*']}}]\n")
	auto, _ := set.Named("auto")
	some, _ := set.Named("some")
	if b := auto.BaseOf("docker.io/library/x:1"); b == nil || b.Every != 6*time.Minute {
		t.Errorf("auto: %+v", b)
	}
	if some.BaseOf("docker.io/library/golang:1.26") == nil || some.BaseOf("docker.io/library/alpine:1") != nil {
		t.Error("patterns of images do not decide")
	}
	if got := set.Match(events.Change{Kind: events.KindImage, Location: "docker.io/library/golang", Name: "1.26"}); len(got) != 2 {
		t.Errorf("%d triggers listen to the image", len(got))
	}
}

func TestSchedule(t *testing.T) {
	set := parse(t, "name: a\non: [{git: {repo: h/r, refs: main}}, {schedule: '0 3 * * 1'}]")
	var s *Schedule
	for _, src := range set.All()[0].On {
		if src.Schedule != nil {
			s = src.Schedule
		}
	}
	if s.Kind != events.KindGit || s.Location != "h/r" || s.Name != "refs/heads/main" {
		t.Errorf("%+v", s)
	}
	at := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC) // a Monday
	if next := s.Next(at); !next.Equal(time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)) {
		t.Errorf("next %s", next)
	}
	for text, want := range map[string]string{
		"name: a\non: [{git: {repo: '**'}}, {schedule: '0 3 * * 1'}]":                               "say what to build",
		"name: a\non: [{git: {repo: h/*}}, {schedule: {cron: '@daily', ref: main}}]":                "exactly one repository",
		"name: a\non: [{git: {repo: h/r, refs: main}}, {schedule: {cron: '@daily', ref: x}}]":       "does not listen to git refs/heads/x",
		"name: a\non: [{git: {repo: h/r, refs: main}}, {schedule: '61 * * * *'}]":                   "not five fields",
		"name: a\non: [{git: {repo: h/r, refs: main}}, {schedule: 'CRON_TZ=Asia/Tokyo 0 * * * *'}]": "in UTC",
		"name: a\non: {schedule: '@daily'}":                                                         "nothing to build",
		"name: a\non: [{git: {repo: h/r}}, {schedule: {ref: main}}]":                                "no cron",
		"name: a\non: [{git: {repo: h/*, heal: true}}]":                                             "on.git.heal needs the name of one repository",
		"name: a\non: [{git: {repo: h/r, paths: ['!x']}}]":                                          "match nothing",
		"name: a\non: [{git: {repo: h/r, paths: ['../x']}}]":                                        "not a pattern of paths",
		"name: a\non: {git: {repo: h/r}}\nrun: {resources: {memory: 0}}":                            "not a size",
		"name: a\non: {git: {repo: h/r}}\nrun: {resources: {cpu: -1}}":                              "not a number of CPUs",
		"name: a\non: {git: {repo: h/r}}\nbuild: {platforms: [linux/arm64, linux/arm64]}":           "linux/arm64 twice",
		"name: a\non: [{git: {repo: h/r}}, {base: {images: ['UPPER']}}]":                            "not the name of an image",
		"name: a\non: {git: {repo: h/r}}\nreport: {notify: ['a b']}":                                "not the name of a notification",
	} {
		if _, err := Parse("f", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", text, err)
		}
	}
}

func TestExplain(t *testing.T) {
	set := parse(t, "- name: app\n  on: {git: {repo: h/r, refs: main}}\n- name: up\n  on: {object: {bucket: gs://b}}\n")
	all := set.Explain(push("h/r", "refs/heads/dev"))
	if len(all) != 2 || all[0].Matched || all[1].Matched {
		t.Fatalf("%+v", all)
	}
	refs := all[0].Sources[0][1]
	if refs.OK || refs.Want != "main" || refs.Got != "refs/heads/dev" || !all[0].Sources[0][0].OK {
		t.Errorf("%+v", all[0].Sources)
	}
	if all := set.Explain(push("h/r", "refs/heads/main")); !all[0].Matched || all[0].Match.Request.Trigger != "app" {
		t.Errorf("%+v", all[0])
	}
}
