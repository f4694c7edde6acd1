package events

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func severalPlatforms() Request {
	return Request{
		BuildID: BuildID("x"), Trigger: "app", Context: "tar://x", Image: "reg.io/app", Tags: []string{"main"}, Attempt: 1,
		Platforms: []string{"linux/amd64", "linux/arm/v7", "linux/arm64"},
		Change:    Change{Kind: KindObject, Location: "gs://b", Name: "o", Generation: "1"},
	}
}

func TestParts(t *testing.T) {
	req := severalPlatforms()
	if err := req.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := req.Runnable(); err == nil || !strings.Contains(err.Error(), "linux/amd64, linux/arm/v7, linux/arm64") {
		t.Errorf("an executor would run the whole: %v", err)
	}
	ids := map[string]bool{}
	for i, part := range req.Parts() {
		if err := part.Runnable(); err != nil {
			t.Error(err)
		}
		if part.Platform != req.Platforms[i] || part.PartOf != req.BuildID || part.Whole() != req.BuildID || part.Parts() != nil {
			t.Errorf("%+v", part)
		}
		ids[part.BuildID] = true
		raw, err := json.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		var back Request
		if err := json.Unmarshal(raw, &back); err != nil || !reflect.DeepEqual(back, part) {
			t.Errorf("%s became %+v, %v", raw, back, err)
		}
	}
	if len(ids) != 3 || req.Whole() != req.BuildID {
		t.Errorf("%v", ids)
	}
	req.Platforms = nil
	if req.Parts() != nil {
		t.Error("a build for one platform has parts")
	}
	// The id is the same for ever: a golden one.
	if got := PartID("b4fqlqs6nuner3bfunf5738b7r", "linux/arm64"); got != "5tcm28pl8897h9dju190fea817" {
		t.Errorf("part id %s", got)
	}
}

func TestPlatformsAreChecked(t *testing.T) {
	for want, edit := range map[string]func(*Request){
		"are not ascending":          func(r *Request) { r.Platforms = []string{"linux/b", "linux/a"} },
		`"linux" is not such`:        func(r *Request) { r.Platforms = []string{"a/b", "linux"} },
		"exclude each other":         func(r *Request) { r.Platform = "linux/amd64" },
		"only, which is platform":    func(r *Request) { r.Platforms = r.Platforms[:1] },
		`is not the part for "a/b"`:  func(r *Request) { r.Platforms, r.Platform, r.PartOf = nil, "a/b", BuildID("y") },
		`"a b/c" is not such`:        func(r *Request) { r.Platforms, r.Platform = nil, "a b/c" },
		`"a/b/c/d" is not such as l`: func(r *Request) { r.Platforms, r.Platform = nil, "a/b/c/d" },
	} {
		req := severalPlatforms()
		edit(&req)
		if err := req.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// The terminal event has every platform's digest, and executors of all parts
// starting are one event of the whole.
func TestEventsOfSeveralPlatforms(t *testing.T) {
	req := severalPlatforms()
	started := map[string]bool{}
	for _, part := range req.Parts() {
		e, err := StartedEvent(part, time.Unix(1795400000, 0))
		if err != nil {
			t.Fatal(err)
		}
		started[e.ID()+" "+e.Extensions()[ExtBuildID].(string)] = true
	}
	if want := req.BuildID + ".started.1 " + req.BuildID; len(started) != 1 || !started[want] {
		t.Errorf("started events %v, want one %s", started, want)
	}
	var infos []PlatformInfo
	for i, p := range req.Platforms {
		info, ok := NewPlatformInfo(p, "sha256:"+strings.Repeat(string(rune('a'+i)), 64))
		if !ok {
			t.Fatal(p)
		}
		infos = append(infos, info)
	}
	res := Result{Outcome: OutcomeSuccess, Digest: "sha256:" + strings.Repeat("0", 64), Platforms: infos}
	if got := NewFinished(req, res, nil).Image.Platforms; !reflect.DeepEqual(got, infos) || got[1] != (PlatformInfo{OS: "linux", Arch: "arm", Variant: "v7", Digest: infos[1].Digest}) {
		t.Errorf("%+v", got)
	}
	res.Outcome = OutcomeFailed
	got := NewFinished(req, res, nil).Image.Platforms
	if len(got) != 3 || got[0].Digest != "" {
		t.Errorf("of a failed build: %+v", got)
	}
}
