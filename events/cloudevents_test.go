package events_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// goldenEvents makes one event of every kind, named by its golden file.
func goldenEvents(t *testing.T) map[string]event.Event {
	t.Helper()
	m := map[string]event.Event{}
	add := func(name string, e event.Event, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m[name] = e
	}
	e, err := events.SourceChangedEvent("prod", "acme", gitChange())
	add("source.changed.git", e, err)
	e, err = events.SourceChangedEvent("prod", "acme", objectChange())
	add("source.changed.object", e, err)
	e, err = events.RequestedEvent(gitRequest())
	add("build.requested", e, err)
	e, err = events.QueuedEvent(gitRequest(), at("2026-11-23T07:38:02Z"))
	add("build.queued", e, err)
	e, err = events.StartedEvent(objectRequest(), at("2026-11-23T07:39:00Z"))
	add("build.started.object", e, err)
	e, err = events.FinishedEvent(gitRequest(), successResult(), []string{"main"})
	add("build.finished.success", e, err)
	e, err = events.FinishedEvent(gitRequest(), failedResult(), nil)
	add("build.finished.failed", e, err)
	noPush := objectRequest()
	noPush.Image, noPush.Tags = "", nil
	e, err = events.FinishedEvent(noPush, successResult(), nil)
	add("build.finished.nopush", e, err)
	e, err = events.RejectedEvent("prod", events.Rejected{
		Trigger: "app", Tenant: "acme", Class: events.ClassConfig, Reason: `tag template: map has no entry for key "Ref"`,
	}, gitChange(), at("2026-11-23T07:38:02Z"))
	add("trigger.rejected", e, err)
	return m
}

// Every event we send, byte for byte, in structured mode.
func TestGoldenEvents(t *testing.T) {
	for name, e := range goldenEvents(t) {
		t.Run(name, func(t *testing.T) {
			raw, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			got := indent(t, raw)
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s (go test -update rewrites it):\n%s", file, got)
			}
			var back event.Event
			if err := json.Unmarshal(want, &back); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(e.Extensions(), back.Extensions()) || e.ID() != back.ID() || e.Subject() != back.Subject() {
				t.Errorf("read back as %s", back)
			}
		})
	}
}

// indent sorts the attributes and indents.
func indent(t *testing.T, raw []byte) []byte {
	t.Helper()
	var v map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

// The attributes a subscriber filters on.
func TestFinishedAttributes(t *testing.T) {
	e := goldenEvents(t)["build.finished.success"]
	for name, want := range map[string]string{
		"buildid": "b4fqlqs6nuner3bfunf5738b7r", "tenant": "acme", "trigger": "app", "outcome": "success",
		"imagedigest": digestX, "commit": commitB, "partitionkey": "app/refs/heads/main",
		"sequence": "00000000000000000007", "causationid": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
		"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	} {
		if got := e.Extensions()[name]; got != want {
			t.Errorf("extension %s = %v, want %s", name, got, want)
		}
	}
	if e.ID() != "b4fqlqs6nuner3bfunf5738b7r.finished" || e.Source() != "/kiln/prod/acme" {
		t.Errorf("id %s, source %s", e.ID(), e.Source())
	}
	if want := "eu-docker.pkg.dev/acme/img/app@" + digestX; e.Subject() != want {
		t.Errorf("subject %s, want %s", e.Subject(), want)
	}
	if !e.Time().Equal(successResult().FinishedAt) {
		t.Errorf("time %s, want that of the result", e.Time())
	}
	failed := goldenEvents(t)["build.finished.failed"]
	if failed.Subject() != "eu-docker.pkg.dev/acme/img/app" || failed.Extensions()["imagedigest"] != nil {
		t.Errorf("a failed build has subject %s and digest %v", failed.Subject(), failed.Extensions()["imagedigest"])
	}
}

// Nothing that could be a secret leaves in any event: values of build
// arguments, and passwords in messages and URLs.
func TestNoSecretsInEvents(t *testing.T) {
	req := gitRequest()
	req.Args["TOKEN"] = "hunter2"
	req.Change.CloneURL = "https://bot:hunter2@github.com/acme/shop.git"
	res := failedResult()
	res.Reason = "get https://bot:hunter2@h/"
	var all []event.Event
	for _, f := range []func() (event.Event, error){
		func() (event.Event, error) { return events.RequestedEvent(req) },
		func() (event.Event, error) { return events.FinishedEvent(req, res, nil) },
		func() (event.Event, error) { return events.SourceChangedEvent("i", "t", req.Change) },
		func() (event.Event, error) {
			return events.RejectedEvent("i", events.Rejected{Reason: "clone http://bot:hunter2@h: 401"}, req.Change, time.Time{})
		},
	} {
		e, err := f()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	for _, e := range all {
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte("hunter2")) {
			t.Errorf("%s carries a secret: %s", e.Type(), raw)
		}
	}
}

// The same move made twice is two events; the same delivery twice is one.
func TestSourceChangedID(t *testing.T) {
	id := func(c events.Change) string {
		e, err := events.SourceChangedEvent("i", "t", c)
		if err != nil {
			t.Fatal(err)
		}
		return e.ID()
	}
	again := gitChange()
	again.Time = again.Time.Add(time.Second)
	first := id(gitChange())
	if second := id(gitChange()); second != first {
		t.Error("one delivery has two ids")
	}
	if first == id(again) {
		t.Error("the same move at another time has the same id and would be dropped")
	}
}

// Attributes hold one bounded line whatever a change brings.
func TestAttributesAreBounded(t *testing.T) {
	c := objectChange()
	c.Name = strings.Repeat("x", 3000) + "\r\nce-type: forged"
	c.Delivery = "a\nb\x00"
	e, err := events.SourceChangedEvent("i", "t", c)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Subject()) > events.MaxAttribute || strings.ContainsAny(e.Subject(), "\r\n") {
		t.Errorf("subject of %d bytes: %q", len(e.Subject()), e.Subject())
	}
	if got := e.Extensions()["causationid"]; got != "a b" {
		t.Errorf("causationid %q", got)
	}
}

func TestSource(t *testing.T) {
	for _, tc := range [][3]string{
		{"prod", "acme", "/kiln/prod/acme"},
		{"", "", "/kiln/default/default"},
		{"a b", "../x?y#z", "/kiln/a-b/..-x-y-z"},
	} {
		if got := events.Source(tc[0], tc[1]); got != tc[2] {
			t.Errorf("Source(%q, %q) = %s, want %s", tc[0], tc[1], got, tc[2])
		}
	}
}

// An invalid result or change makes no event.
func TestConstructorsRefuse(t *testing.T) {
	if _, err := events.FinishedEvent(gitRequest(), events.Result{}, nil); err == nil {
		t.Error("a result without an outcome made an event")
	}
	if _, err := events.SourceChangedEvent("i", "t", events.Change{Kind: "x"}); err == nil {
		t.Error("a change of unknown kind made an event")
	}
}
