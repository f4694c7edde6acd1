package parts_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/parts"
)

// three are the parts of a build as a word each says: "ok", "failed", "error",
// "cancelled", "none", "pending", "running"; what ends later stands further right.
func three(words string) []parts.Part {
	req := events.Request{BuildID: events.BuildID("x"), Platforms: []string{"linux/amd64", "linux/arm/v7", "linux/arm64"}}
	var all []parts.Part
	for i, word := range strings.Fields(words) {
		p := parts.Part{Request: req.Parts()[i]}
		at := time.Unix(int64(1000+i), 0)
		switch word {
		case "ok":
			p.Result = &events.Result{
				Outcome: events.OutcomeSuccess, Digest: digest(i), Size: 10, StartedAt: at, FinishedAt: at.Add(time.Minute), Isolation: "overlay",
				Bases: []events.BaseInfo{{Ref: "base", Digest: digest(9)}}, Cache: events.CacheInfo{Hits: 1, Misses: 2}, DurationMS: map[string]int64{"build": int64(i)},
			}
		case "failed", "error", "cancelled":
			p.Result = &events.Result{Outcome: events.Outcome(word), Class: events.ClassBuild, Reason: "why", Message: "Dockerfile:3: RUN false", FinishedAt: at}
		case "none":
		default:
			p.State = parts.State(word)
		}
		all = append(all, p)
	}
	return all
}

func digest(i int) string { return "sha256:" + strings.Repeat(string(rune('a'+i%6)), 64) }

func platforms(reqs []events.Request) string {
	var list []string
	for _, r := range reqs {
		list = append(list, strings.TrimPrefix(r.Platform, "linux/"))
	}
	return strings.Join(list, " ")
}

func TestDecide(t *testing.T) {
	for words, want := range map[string]string{
		"none none none":           "launch amd64 arm/v7 arm64",
		"ok none running":          "launch arm/v7",
		"ok pending none":          "launch arm64 wait arm/v7",
		"running running running":  "",
		"ok ok running":            "",
		"ok ok ok":                 "index",
		"failed running none":      "end failed linux/amd64 stop arm/v7 arm64",
		"ok ok error":              "end error linux/arm64",
		"cancelled error failed":   "end failed linux/arm64",
		"cancelled running error":  "end error linux/arm64 stop arm/v7",
		"ok failed failed":         "end failed linux/arm/v7",
		"pending cancelled ok":     "end cancelled linux/arm/v7 stop amd64",
		"running cancelled failed": "end failed linux/arm64 stop amd64",
	} {
		v := parts.Decide(three(words))
		var got []string
		say := func(word string, reqs []events.Request) {
			if len(reqs) > 0 {
				got = append(got, word+" "+platforms(reqs))
			}
		}
		say("launch", v.Launch)
		say("wait", v.Wait)
		if v.Index {
			got = append(got, "index")
		}
		if v.End != nil {
			got = append(got, "end "+string(v.End.Outcome)+" "+v.End.Platform)
			if !strings.HasPrefix(v.End.Message, v.End.Platform+": Dockerfile:3") || !strings.HasPrefix(v.End.Reason, v.End.Platform+": ") || v.End.Class != events.ClassBuild {
				t.Errorf("%s: %+v does not name the platform", words, v.End)
			}
		}
		say("stop", v.Stop)
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%s: %s, want %s", words, text, want)
		}
	}
}

func TestSuccess(t *testing.T) {
	got := parts.Success(three("ok ok ok"), parts.Index{Digest: digest(5), MediaType: "index"})
	want := events.Result{
		Outcome: events.OutcomeSuccess, Digest: digest(5), MediaType: "index", Size: 30, Isolation: "overlay",
		Platforms: []events.PlatformInfo{
			{OS: "linux", Arch: "amd64", Digest: digest(0)}, {OS: "linux", Arch: "arm", Variant: "v7", Digest: digest(1)}, {OS: "linux", Arch: "arm64", Digest: digest(2)},
		},
		Bases: []events.BaseInfo{{Ref: "base", Digest: digest(9)}}, Cache: events.CacheInfo{Hits: 3, Misses: 6}, DurationMS: map[string]int64{"build": 2},
		StartedAt: time.Unix(1000, 0), FinishedAt: time.Unix(1062, 0),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant\n%+v", got, want)
	}
}
