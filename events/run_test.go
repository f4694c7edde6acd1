package events

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func runRequest() Request {
	return Request{
		Install: "i", Tenant: "t", Trigger: "app", Sequence: 7, Group: "app/refs/heads/main", Attempt: 2,
		BuildID: "b4fqlqs6nuner3bfunf5738b7r", Context: "git://example.com/r.git#c", Image: "r.example.com/app",
		Tags: []string{"main"}, Args: map[string]string{"A": "b c"}, Timeout: 90 * time.Second,
		RequestedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Change: Change{
			Kind: KindGit, Location: "example.com/r", Name: "refs/heads/main",
			Before: strings.Repeat("a", 40), After: strings.Repeat("b", 40),
		},
	}
}

// TestParseOrder proves that an executor reads the same request from its JSON
// and from the event that a JobSink mounts.
func TestParseOrder(t *testing.T) {
	want := runRequest()
	bare, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	e, err := RunEvent(Order{Request: want, ResultURL: "https://kiln.example.com/r", ResultToken: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	if e.ID() != want.BuildID+".run.2" {
		t.Errorf("id %s", e.ID())
	}
	structured, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"bare": bare, "event": structured} {
		got, err := ParseOrder(data)
		if err != nil || !reflect.DeepEqual(got.Request, want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if withResult := name == "event"; withResult != (got.ResultURL == "https://kiln.example.com/r" && got.ResultToken == "abc") {
			t.Errorf("%s: the result goes to %q with %q", name, got.ResultURL, got.ResultToken)
		}
	}
}

// TestParseOrderRefuses proves that what is no request is an error that says why.
func TestParseOrderRefuses(t *testing.T) {
	for data, want := range map[string]string{
		"":   "read request",
		"[]": "read request",
		"{}": "build id",
		`{"specversion":"1.0","type":"dev.kilnhook.build.finished.v1","data":{}}`: "not dev.kilnhook.build.run.v1",
		`{"specversion":"1.0","type":"dev.kilnhook.build.run.v1"}`:                "read request",
	} {
		if _, err := ParseOrder([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", data, err)
		}
	}
}

// FuzzParseOrder proves that no bytes make ParseOrder panic or return a
// request that is not valid.
func FuzzParseOrder(f *testing.F) {
	bare, err := json.Marshal(runRequest())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bare)
	f.Add([]byte(`{"specversion":"1.0","type":"dev.kilnhook.build.run.v1","data":` + string(bare) + `}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if o, err := ParseOrder(data); err == nil && o.Request.Validate() != nil {
			t.Errorf("an invalid request was accepted: %+v", o)
		}
	})
}
