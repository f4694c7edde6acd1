package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/template"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// maxMessage is the size of the largest message, in bytes.
const maxMessage = 32 << 10

// Notification posts a message to a webhook, as those of Slack, Mattermost and
// Teams are.
type Notification struct {
	Name string
	URL  string // holds a secret: never logged
	When When
	body *template.Template // yields the body
	text bool               // body yields text, which is put into {"text": …}
}

// When is a filter. Every part that is given must hold.
type When struct {
	Outcomes []events.Outcome // one of these
	Triggers []string         // by one of these triggers
	Changed  bool             // the outcome is another than that of the group's build before; the first that is no success counts too
}

func (w When) matches(data events.Finished, changed bool) bool {
	return (len(w.Outcomes) == 0 || slices.Contains(w.Outcomes, data.Outcome)) &&
		(len(w.Triggers) == 0 || slices.Contains(w.Triggers, data.Build.Trigger)) && (!w.Changed || changed)
}

// message is what a template may name.
type message struct {
	events.Finished
	Changed bool   // the outcome is another than before
	URL     string // of the build's page; empty if none is configured
	Short   string // beginning of the build's id
}

// defaultText is the message where none is configured.
const defaultText = `{{ if eq .Outcome "success" }}✅{{ else if eq .Outcome "cancelled" }}🚫{{ else }}❌{{ end }} {{ .Build.Trigger }}: ` +
	`{{ .Outcome }}{{ with .Class }} ({{ . }}){{ end }}{{ with .Source.Repo }} of {{ . }} {{ $.Source.Ref }} at {{ trunc 12 $.Source.Commit }}{{ end }}` +
	`{{ with .Source.Object }} of {{ . }}{{ end }}{{ with .Image }}{{ with .Digest }}
{{ $.Image.Repository }}@{{ . }}{{ end }}{{ end }}{{ with .Message }}
{{ . }}{{ end }}{{ with .URL }}
{{ . }}{{ end }}`

// compile reads the template of a message. json is the only function that may
// put text into JSON.
func compile(name, text string) (*template.Template, error) {
	return template.New(name).Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			data, err := json.Marshal(v)
			return string(data), err
		},
		"trunc": func(n int, s string) string { return s[:max(0, min(n, len(s)))] },
		"upper": strings.ToUpper, "lower": strings.ToLower, "join": strings.Join,
	}).Parse(text)
}

// render makes the body of a message.
func (n Notification) render(m message) ([]byte, error) {
	var out bytes.Buffer
	if err := n.body.Execute(&out, m); err != nil {
		return nil, err
	}
	if out.Len() > maxMessage {
		return nil, fmt.Errorf("the message of %d bytes is longer than %d", out.Len(), maxMessage)
	}
	if n.text {
		return json.Marshal(map[string]string{"text": out.String()})
	}
	if !json.Valid(out.Bytes()) {
		return nil, errors.New("the template of body yields no JSON: put every value through json, as in {{ .Message | json }}")
	}
	return out.Bytes(), nil
}

// notify posts a message, unless that was done for this build.
func (r *Reporter) notify(ctx context.Context, n Notification, req events.Request, data events.Finished, changed bool) error {
	body, err := n.render(message{Finished: data, Changed: changed, URL: r.opts.Config.detailsURL(req.BuildID), Short: req.BuildID[:8]})
	if err != nil {
		r.opts.Log.Error("notification", "name", n.Name, "build", req.BuildID, "err", err)
		return nil
	}
	key := record.NotifiedKey(req.BuildID, n.Name)
	if _, _, err := r.opts.Ledger.Get(ctx, key); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	u, err := url.Parse(n.URL)
	if err != nil {
		return nil //nolint:nilerr // checked when the configuration was read
	}
	err = r.send(ctx, u.Host, 0, "notification "+n.Name, req.BuildID, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.URL, bytes.NewReader(body))
		if err != nil {
			return nil, errors.New("make request to the notification's URL")
		}
		req.Header.Set("Content-Type", "application/json")
		return req, nil
	})
	if err != nil {
		return err
	}
	if _, err := r.opts.Ledger.Create(ctx, key, []byte("{}")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// outcomeChanged enters the outcome of a build as the last of its group, and
// reports whether the one before was another. Of a build that is not the
// newest, nothing is entered and nothing has changed. Cancelled builds say
// nothing about the code, and do not count.
func (r *Reporter) outcomeChanged(ctx context.Context, req events.Request, outcome events.Outcome) (bool, error) {
	if outcome == events.OutcomeCancelled {
		return false, nil
	}
	key := record.OutcomeKey(req)
	for {
		var have record.Outcome
		version, err := record.Load(ctx, r.opts.Ledger, key, &have)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if have.BuildID == req.BuildID {
			return have.Changed, nil
		}
		if version != "" && (have.Sequence > req.Sequence || have.Sequence == req.Sequence && have.Nonce > req.Nonce) {
			return false, nil
		}
		changed := have.Outcome != outcome && (have.Outcome != "" || outcome != events.OutcomeSuccess)
		data, err := record.Encode(record.Outcome{BuildID: req.BuildID, Sequence: req.Sequence, Nonce: req.Nonce, Outcome: outcome, Changed: changed})
		if err != nil {
			return false, err
		}
		if _, err = r.opts.Ledger.Swap(ctx, key, version, data); err == nil {
			return changed, nil
		}
		if !errors.Is(err, ledger.ErrConflict) {
			return false, err
		}
	}
}
