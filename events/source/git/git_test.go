package git_test

import (
	"flag"
	"testing"

	"github.com/kilnhook/kiln/events/source/git"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

func TestGolden(t *testing.T) { sourcetest.Golden(t, git.Parse) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, git.Parse) }
