package gcs_test

import (
	"flag"
	"testing"

	"github.com/kilnhook/kiln/events/source/gcs"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

func TestGolden(t *testing.T) { sourcetest.Golden(t, gcs.Parse) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, gcs.Parse) }

// The Eventarc and the Pub/Sub form of one upload are the same change.
func TestFormsAgree(t *testing.T) {
	keys := map[string]string{}
	for _, name := range []string{"eventarc", "eventarc_numbers", "pubsub", "pubsub_none", "pubsub_through_eventarc"} {
		changes, err := gcs.Parse(sourcetest.Request(t, "testdata/"+name+".http"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		keys[changes[0].Key()] = name
	}
	if len(keys) != 1 {
		t.Errorf("keys %v", keys)
	}
}
