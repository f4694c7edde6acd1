package cdevents_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events/cdevents"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// read returns an example of the contract.
func read(t *testing.T, name string) event.Event {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var e event.Event
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// Every example of the contract is mirrored as its golden file says, and to
// what CDEvents demands: the event and its envelope agree.
func TestMirror(t *testing.T) {
	names, err := filepath.Glob("../testdata/*.json")
	if err != nil || len(names) < 9 {
		t.Fatalf("examples %q, %v", names, err)
	}
	mirrored := 0
	for _, name := range names {
		name = filepath.Base(name)
		t.Run(name, func(t *testing.T) {
			got, err := cdevents.Mirror(read(t, name))
			if err != nil {
				t.Fatal(err)
			}
			mirrored += len(got)
			for _, e := range got {
				agrees(t, e)
			}
			text, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(golden, append(text, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || strings.TrimSpace(string(want)) != string(text) {
				t.Errorf("%v; got\n%s", err, text)
			}
		})
	}
	if mirrored != 7 {
		t.Errorf("%d events were mirrored", mirrored)
	}
}

// agrees checks what the binding to CloudEvents and the specification of CDEvents
// demand of every event.
func agrees(t *testing.T, e event.Event) {
	t.Helper()
	var c struct {
		Context struct {
			SpecVersion, ID, Source, Type, ChainID string
			Timestamp                              string
		}
		Subject struct {
			ID, Source string
			Content    map[string]any
		}
	}
	if err := json.Unmarshal(e.Data(), &c); err != nil {
		t.Fatal(err)
	}
	if c.Context.ID != e.ID() || c.Context.Source != e.Source() || c.Context.Type != e.Type() || c.Subject.ID != e.Subject() {
		t.Errorf("the event and its envelope differ: %+v and %s", c, e)
	}
	if got := e.Time().Format("2006-01-02T15:04:05.000Z07:00"); got != c.Context.Timestamp {
		t.Errorf("time %s, timestamp %s", got, c.Context.Timestamp)
	}
	if c.Context.SpecVersion != "0.5.1" || len(c.Context.ChainID) != 36 || c.Subject.Content == nil {
		t.Errorf("context %+v", c.Context)
	}
	if parts := strings.Split(e.Type(), "."); len(parts) != 7 || parts[0] != "dev" || parts[1] != "cdevents" {
		t.Errorf("type %s", e.Type())
	}
}

// The same event is mirrored to the same ones, and one that is broken to none.
func TestMirrorIsPure(t *testing.T) {
	e := read(t, "build.finished.success.json")
	one, err := cdevents.Mirror(e)
	if err != nil {
		t.Fatal(err)
	}
	two, _ := cdevents.Mirror(e)
	if len(one) != 2 || one[0].String() != two[0].String() || one[1].String() != two[1].String() || one[0].ID() == one[1].ID() {
		t.Errorf("%v\n%v", one, two)
	}
	e.DataEncoded = []byte("{")
	if got, err := cdevents.Mirror(e); err == nil {
		t.Errorf("a broken event became %v", got)
	}
}
