package record_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// A beginning names the one build that begins so, whatever records there are of it.
func TestFind(t *testing.T) {
	l := new(ledger.Mem)
	one, two := "aab"+events.BuildID("x")[3:], "aac"+events.BuildID("y")[3:]
	for _, key := range []string{record.RequestKey(one), record.ResultKey(one), record.EmittedKey(one), record.RequestKey(two)} {
		if _, err := l.Create(t.Context(), key, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]string{
		"aab": one, one[:20]: one, "  AAC ": two, one: one, strings.ToUpper(two): two,
		events.BuildID("nobody"): events.BuildID("nobody"), // whole: it is not looked for
	} {
		if got, err := record.Find(t.Context(), l, text); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"": "not a build id", "  ": "not a build id", "../a": "not a build id", "xyz": "not a build id", "a": "several builds begin with a: " + one} {
		_, err := record.Find(t.Context(), l, text)
		if _, ok := errors.AsType[*record.AbbreviationError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := record.Find(t.Context(), l, "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody's: %v", err)
	}
}
