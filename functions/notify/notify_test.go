package notify_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/functions/notify"
)

func read(t *testing.T, name string) event.Event {
	t.Helper()
	text, err := os.ReadFile("../../events/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var e event.Event
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// slack is the template of docs/subscribe.md.
const slack = `{{ if eq .Type "dev.kilnhook.build.finished.v1" }}{
  "text": {{ printf "%s: %s %s" .Attributes.trigger .Attributes.outcome .Subject | json }},
  "attachments": [{"fallback": {{ json .Data.message }}, "fields": [{"title": "Commit", "value": {{ json .Attributes.commit }}}]}]
}{{ end }}`

func TestRender(t *testing.T) {
	tmpl, err := notify.Parse(slack)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"build.finished.success.json": "app: success eu-docker.pkg.dev/acme/img/app@sha256:0b31b1c02ff458ad9b7b81cbdf8f028bd54699fa151f221d1e8de6817db93427",
		"build.queued.json":           "",
	} {
		h, body, err := tmpl.Render(read(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			if body != nil || h != nil {
				t.Errorf("%s: %s", name, body)
			}
			continue
		}
		var got struct{ Text string }
		if err := json.Unmarshal(body, &got); err != nil || got.Text != want || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s, %v", name, body, err)
		}
	}
	if doc, err := os.ReadFile("../../docs/subscribe.md"); err != nil || !strings.Contains(string(doc), slack) {
		t.Errorf("docs/subscribe.md has another template: %v", err)
	}
}

// Values that others wrote cannot break out of their place.
func TestUntrusted(t *testing.T) {
	tmpl, err := notify.Parse(`{"text": {{ json .Data.message }}}`)
	if err != nil {
		t.Fatal(err)
	}
	e := read(t, "build.finished.failed.json")
	const evil = "\", \"channel\": \"#all\n<!everyone>\x00"
	if err := e.SetData("application/json", map[string]string{"message": evil}); err != nil {
		t.Fatal(err)
	}
	_, body, err := tmpl.Render(e)
	var got map[string]string
	if err != nil || json.Unmarshal(body, &got) != nil || len(got) != 1 || got["text"] != evil {
		t.Errorf("%s, %v", body, err)
	}
}

func TestErrors(t *testing.T) {
	if _, err := notify.Parse("{{ .X"); err == nil {
		t.Error("a broken template was accepted")
	}
	for text, want := range map[string]string{
		`{"text": {{ .Subject }}}`: "function json", `{{ .Nothing }}`: "can't evaluate field", `"` + strings.Repeat("x", 70000) + `"`: "more than",
	} {
		tmpl, err := notify.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, body, err := tmpl.Render(read(t, "build.finished.success.json")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %s, %v, want an error with %q", text, body, err, want)
		}
	}
}
