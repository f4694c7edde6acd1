package put_test

import (
	"flag"
	"testing"

	"github.com/kilnhook/kiln/events/source/put"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

func TestGolden(t *testing.T) { sourcetest.Golden(t, put.Parse) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, put.Parse) }
