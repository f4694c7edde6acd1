package registry_test

import (
	"flag"
	"net/http"
	"testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source/registry"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

// parse tells the two kinds apart, as the doors do.
func parse(h http.Header, body []byte) ([]events.Change, error) {
	if registry.IsArtifactRegistry(body) {
		return registry.ParseArtifactRegistry(h, body)
	}
	return registry.Parse(h, body)
}

func TestGolden(t *testing.T) { sourcetest.Golden(t, parse) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, parse) }

func FuzzArtifactRegistry(f *testing.F) { sourcetest.Fuzz(f, registry.ParseArtifactRegistry) }
