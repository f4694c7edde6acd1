package source_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

func TestVerifyBearer(t *testing.T) {
	header := func(value string) http.Header { return http.Header{"Authorization": {value}} }
	tokens := []string{"old", "", "new"}
	for value, ok := range map[string]bool{
		"Bearer old": true, "bearer new": true, "Bearer  new ": true,
		"Bearer ": false, "Bearer": false, "": false, "Bearer ne": false, "Bearer newer": false, "Basic new": false, "new": false,
	} {
		if err := source.VerifyBearer(tokens, header(value)); (err == nil) != ok || err != nil && !errors.Is(err, source.ErrUnauthorised) {
			t.Errorf("%q: %v", value, err)
		}
	}
	if err := source.VerifyBearer(nil, header("Bearer ")); err == nil {
		t.Error("without tokens something passes")
	}
}

func TestDecimal(t *testing.T) {
	for in, want := range map[string]source.Decimal{
		`1587627537231057`: "1587627537231057", `"1587627537231057"`: "1587627537231057",
		`99999999999999999999999`: "99999999999999999999999", `null`: "", `0`: "0",
	} {
		var d source.Decimal
		if err := json.Unmarshal([]byte(in), &d); err != nil || d != want {
			t.Errorf("%s: %q, %v", in, d, err)
		}
	}
	for _, in := range []string{`1e3`, `1.5`, `-1`, `""`, `"x"`, `true`, `[]`, `"` + strings.Repeat("1", 41) + `"`} {
		var d source.Decimal
		if err := json.Unmarshal([]byte(in), &d); err == nil {
			t.Errorf("%s was read as %q", in, d)
		}
	}
}

// What an event of ours carries comes back as the change that went in.
func TestChangeOfIsTheInverse(t *testing.T) {
	c := events.Change{
		Kind: events.KindGit, Location: "github.com/acme/shop", Name: "refs/heads/main",
		Before: strings.Repeat("0", 40), After: strings.Repeat("a", 40), Delivery: "d",
		Time: time.Unix(1795400000, 0).UTC(), PushOptions: []string{"build=now"},
	}
	e, err := events.SourceChangedEvent("i", "t", c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := source.ChangeOf(e)
	if err != nil || got.Key() != c.Key() || got.Delivery != "d" || !got.Time.Equal(c.Time) || len(got.PushOptions) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Delivery and time are the event's where the data is silent.
func TestChangeOfFillsIn(t *testing.T) {
	e := event.New()
	e.SetID("id-7")
	e.SetSource("/s")
	e.SetType(events.TypeSourceChanged)
	e.SetTime(time.Unix(1795400000, 0))
	if err := e.SetData("application/json", json.RawMessage(`{"kind":"object","location":"kiln://contexts","name":"a.tar","generation":"1"}`)); err != nil {
		t.Fatal(err)
	}
	c, err := source.ChangeOf(e)
	if err != nil || c.Delivery != "id-7" || c.Time.Unix() != 1795400000 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestErrorsTell(t *testing.T) {
	err := source.Malformed("a thing", "broken: %w", errors.ErrUnsupported)
	if got := err.Error(); got != "read a thing: broken: unsupported operation" || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%q", got)
	}
	if got := source.Ignored("type %s", "\x1b[31mx\n").Error(); got != "ignored: type x" {
		t.Errorf("%q", got)
	}
}
