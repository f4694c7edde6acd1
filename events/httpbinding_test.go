package events_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/kilnhook/kiln/events"
)

// Every event we send survives binary mode, and means the same to the
// CloudEvents SDK that a subscriber uses.
func TestBinaryModeRoundTrip(t *testing.T) {
	for name, e := range goldenEvents(t) {
		header, body, err := events.EncodeHTTP(e)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		back, err := events.DecodeHTTP(header, body)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(e.Context, back.Context) || string(e.Data()) != string(back.Data()) {
			t.Errorf("%s: read back as %s", name, back)
		}
		req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(body)))
		req.Header = header
		theirs, err := binding.ToEvent(t.Context(), cehttp.NewMessageFromHttpRequest(req))
		if err != nil {
			t.Fatalf("%s: the SDK says %v", name, err)
		}
		if theirs.ID() != e.ID() || theirs.Subject() != e.Subject() || len(theirs.Extensions()) != len(e.Extensions()) {
			t.Errorf("%s: the SDK reads %s", name, theirs)
		}
	}
}

func TestStructuredMode(t *testing.T) {
	for name, e := range goldenEvents(t) {
		body, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		header := map[string][]string{"content-type": {"application/cloudevents+json; charset=utf-8"}}
		if !events.IsCloudEvent(header) {
			t.Error("structured mode is not recognised")
		}
		back, err := events.DecodeHTTP(header, body)
		if err != nil || back.ID() != e.ID() || !reflect.DeepEqual(back.Extensions(), e.Extensions()) {
			t.Errorf("%s: %v, %v", name, back, err)
		}
	}
}

// Values that would break a header are encoded, and none can add a header.
func TestHeaderValuesAreEncoded(t *testing.T) {
	c := objectChange()
	c.Name = "Grüße \"100%\" €.tar"
	e, err := events.SourceChangedEvent("i", "t", c)
	if err != nil {
		t.Fatal(err)
	}
	header, body, err := events.EncodeHTTP(e)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := header["Ce-Subject"][0], "Gr%C3%BC%C3%9Fe%20%22100%25%22%20%E2%82%AC.tar"; got != want {
		t.Errorf("subject header %s, want %s", got, want)
	}
	back, err := events.DecodeHTTP(header, body)
	if err != nil || back.Subject() != c.Name {
		t.Errorf("subject came back as %q, %v", back.Subject(), err)
	}
}

func TestDecodeHTTPRefuses(t *testing.T) {
	good := func() map[string][]string {
		return map[string][]string{"CE-SpecVersion": {"1.0"}, "ce-id": {"1"}, "Ce-Type": {"t"}, "Ce-Source": {"/s"}}
	}
	if _, err := events.DecodeHTTP(good(), nil); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, edit := range map[string]func(map[string][]string){
		"no id":       func(h map[string][]string) { delete(h, "ce-id") },
		"no type":     func(h map[string][]string) { delete(h, "Ce-Type") },
		"old version": func(h map[string][]string) { h["CE-SpecVersion"] = []string{"0.3"} },
		"bad time":    func(h map[string][]string) { h["Ce-Time"] = []string{"noon"} },
		"bad utf-8":   func(h map[string][]string) { h["Ce-Subject"] = []string{"%ff"} },
		"batch":       func(h map[string][]string) { h["Content-Type"] = []string{"application/cloudevents-batch+json"} },
		"bad name":    func(h map[string][]string) { h["Ce-A-B"] = []string{"x"} },
		"structured":  func(h map[string][]string) { h["Content-Type"] = []string{"application/cloudevents+json"} },
	} {
		h := good()
		edit(h)
		if e, err := events.DecodeHTTP(h, []byte("{")); err == nil {
			t.Errorf("%s: accepted as %s", name, e)
		}
	}
	if events.IsCloudEvent(map[string][]string{"Content-Type": {"application/json"}}) {
		t.Error("plain JSON is taken for a CloudEvent")
	}
}

func FuzzDecodeHTTP(f *testing.F) {
	f.Add("application/json", "a%20b", "\"q\\\"\"", []byte(`{"a":1}`))
	f.Add("application/cloudevents+json", "", "", []byte(`{"specversion":"1.0","id":"1","type":"t","source":"/s","data":{},"x":1}`))
	f.Fuzz(func(t *testing.T, contentType, id, subject string, body []byte) {
		e, err := events.DecodeHTTP(map[string][]string{
			"Content-Type": {contentType}, "Ce-Specversion": {"1.0"}, "Ce-Id": {id}, "Ce-Type": {"t"},
			"Ce-Source": {"/s"}, "Ce-Subject": {subject},
		}, body)
		if err != nil {
			return
		}
		header, data, err := events.EncodeHTTP(e)
		if err != nil {
			t.Fatalf("decoded but cannot be encoded: %v", err)
		}
		for name, values := range header {
			if name != "Content-Type" && strings.ContainsFunc(values[0], func(r rune) bool { return r <= 0x20 || r >= 0x7f }) {
				t.Errorf("header %s: %q", name, values[0])
			}
		}
		back, err := events.DecodeHTTP(header, data)
		if err != nil || back.ID() != e.ID() || back.Subject() != e.Subject() || !utf8.ValidString(back.ID()) {
			t.Errorf("%q came back as %q: %v", e.ID(), back.ID(), err)
		}
	})
}
