package cdevents_test

import (
	"flag"
	"testing"

	"github.com/kilnhook/kiln/events/source/cdevents"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

func TestGolden(t *testing.T) { sourcetest.Golden(t, cdevents.Parse) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, cdevents.Parse) }
