package s3_test

import (
	"flag"
	"testing"

	"github.com/kilnhook/kiln/events/source/s3"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

func TestGolden(t *testing.T) { sourcetest.Golden(t, s3.Parse) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, s3.Parse) }

// The sequencer orders writes of one key.
func TestSequencerOrders(t *testing.T) {
	changes, err := s3.Parse(sourcetest.Request(t, "testdata/two.http"))
	if err != nil || len(changes) != 2 {
		t.Fatal(changes, err)
	}
	if order, known := changes[0].CompareOrder(changes[1]); !known || order >= 0 {
		t.Errorf("order %d, known %t", order, known)
	}
}
