// Package page renders the stack's web page: a list of builds, and one build
// with its steps, its log and its event. Everything comes from the binary; the
// page loads nothing from elsewhere and runs under a policy that forbids it.
package page

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

//go:embed *.html kiln.css kiln.js
var files embed.FS // the only form embedding has

// Policy is the Content-Security-Policy of every page.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Pages renders. It is safe for concurrent use.
type Pages struct {
	list, build *template.Template
	now         func() time.Time
}

// New reads the templates.
func New(now func() time.Time) (*Pages, error) {
	p := &Pages{now: now}
	funcs := template.FuncMap{
		"short": Short, "took": took, "ago": func(t time.Time) string { return Ago(p.now(), t) },
		"source": Source, "duration": buildlog.Duration, "bytes": buildlog.Bytes, "digest": shortDigest,
		"status": status, "pull": pullCommand, "stamp": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	}
	var err error
	parse := func(name string) *template.Template {
		t, perr := template.New("layout.html").Funcs(funcs).ParseFS(files, "layout.html", name)
		if perr != nil {
			err = fmt.Errorf("read page templates: %w", perr)
		}
		return t
	}
	p.list, p.build = parse("list.html"), parse("build.html")
	return p, err
}

// Doors are the addresses that the list tells people to use.
type Doors struct {
	HTTP string // "http://127.0.0.1:8765"
	S3   string // "http://127.0.0.1:8766"
}

// listData is what list.html shows.
type listData struct {
	Title  string
	Builds []api.Build
	Next   string
	Doors  Doors
	Live   bool // something is going on: the page reloads itself
}

// List writes the list of builds.
func (p *Pages) List(w http.ResponseWriter, l api.List, doors Doors) error {
	d := listData{Title: "builds", Builds: l.Builds, Next: l.Next, Doors: doors}
	for _, b := range l.Builds {
		d.Live = d.Live || !b.Finished()
	}
	return write(w, p.list, d)
}

// buildData is what build.html shows.
type buildData struct {
	Title string
	Build api.Build
	Steps []buildlog.Step
	Log   string
	Event string // indented JSON
}

// Build writes the page of one build. log is its log as plain text, steps what
// it says of steps.
func (p *Pages) Build(w http.ResponseWriter, b api.Build, steps []buildlog.Step, log string) error {
	d := buildData{Title: "build " + Short(b.ID), Build: b, Steps: steps, Log: log}
	if b.Event != nil {
		var out bytes.Buffer
		if err := json.Indent(&out, *b.Event, "", "  "); err != nil {
			return fmt.Errorf("show event of build %s: %w", b.ID, err)
		}
		d.Event = out.String()
	}
	return write(w, p.build, d)
}

// write renders first and sends then, so that an error is an error.
func write(w http.ResponseWriter, t *template.Template, data any) error {
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return fmt.Errorf("render page: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", Policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	_, err := w.Write(out.Bytes())
	return err
}

// Static serves the style sheet and the script.
func Static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	if name != "kiln.css" && name != "kiln.js" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeFileFS(w, r, files, name)
}

// Short abbreviates a build id.
func Short(id string) string { return id[:min(len(id), 10)] }

func shortDigest(d string) string {
	if hex, ok := strings.CutPrefix(d, "sha256:"); ok && len(hex) > 12 {
		return "sha256:" + hex[:12]
	}
	return d
}

// Source says in a few words what a build was started by.
func Source(c events.Change) string {
	if c.Kind != events.KindGit {
		return strings.TrimPrefix(c.Location, "kiln://") + "/" + c.Name
	}
	ref := strings.TrimPrefix(strings.TrimPrefix(c.Name, "refs/heads/"), "refs/tags/")
	rev := c.Revision()
	return c.Location + " " + ref + " " + rev[:min(len(rev), 10)]
}

// status is the one word that a build is known by: its outcome or its state.
func status(b api.Build) string {
	if b.Result != nil {
		return string(b.Result.Outcome)
	}
	return b.State
}

// took is how long a build ran, or has run.
func took(b api.Build) string {
	if b.Result == nil || b.Result.StartedAt.IsZero() || b.Result.FinishedAt.Before(b.Result.StartedAt) {
		return ""
	}
	return buildlog.Duration(b.Result.FinishedAt.Sub(b.Result.StartedAt).Milliseconds())
}

func pullCommand(b api.Build) string {
	if b.Result == nil || b.Result.Digest == "" || b.Request.Image == "" {
		return ""
	}
	return "docker pull " + b.Request.Image + "@" + b.Result.Digest
}

// Ago says how long before now a time was.
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := now.Sub(t)
	switch {
	case d < 10*time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}
