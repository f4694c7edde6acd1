package azure_test

import (
	"flag"
	"testing"

	"github.com/kilnhook/kiln/events/source/azure"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

func TestGolden(t *testing.T) { sourcetest.Golden(t, azure.Parse) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, azure.Parse) }

// Later writes of one blob have a higher order, and a blob is the same through
// either endpoint.
func TestSameBlob(t *testing.T) {
	first, err := azure.Parse(sourcetest.Request(t, "testdata/created.http"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := azure.Parse(sourcetest.Request(t, "testdata/flush_with_close.http"))
	if err != nil {
		t.Fatal(err)
	}
	if order, known := first[0].CompareOrder(second[0]); !known || order >= 0 {
		t.Errorf("order %d, known %t", order, known)
	}
	if first[0].Location != second[0].Location || first[0].Name != second[0].Name {
		t.Errorf("%s/%s and %s/%s", first[0].Location, first[0].Name, second[0].Location, second[0].Name)
	}
}
