package knative_test

import (
	"flag"
	"testing"

	"github.com/kilnhook/kiln/events/source/knative"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

func TestGolden(t *testing.T) { sourcetest.Golden(t, knative.Parse) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, knative.Parse) }

func TestKnows(t *testing.T) {
	for typ, want := range map[string]bool{
		"dev.knative.source.github.push": true, "dev.knative.sources.github.push": true, "com.github.push": true,
		"dev.knative.sources.gitlab.push": true, "dev.knative.source.gitlab.tag_push": true, "com.gitlab.push": true,
		"dev.knative.source.github.issues": true,
		"dev.knative.sources.ping":         false, "com.githubx.push": false, "com.amazonaws.s3.ObjectCreated:Put": false, "": false,
	} {
		if got := knative.Knows(typ); got != want {
			t.Errorf("Knows(%q) = %t", typ, got)
		}
	}
}

// A push is the same change whoever made an event of it.
func TestSpellingsAgree(t *testing.T) {
	keys := map[string]string{}
	for _, name := range []string{"github_push", "com_github_push", "github_reencoded"} {
		changes, err := knative.Parse(sourcetest.Request(t, "testdata/"+name+".http"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		keys[changes[0].Key()] = name
	}
	if len(keys) != 1 {
		t.Errorf("keys %v", keys)
	}
}
