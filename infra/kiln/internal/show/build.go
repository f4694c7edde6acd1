package show

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// Builds writes a table of builds.
func Builds(out io.Writer, builds []api.Build, now time.Time) error {
	w := newTable(out)
	fmt.Fprintln(w, "BUILD\tOUTCOME\tTRIGGER\tFROM\tIMAGE\tTOOK\tWHEN") // errors come with Flush
	for _, b := range builds {
		state, image, took := b.State, b.Request.Image, ""
		if r := b.Result; r != nil {
			state = string(r.Outcome)
			if r.Digest != "" {
				image += "@" + r.Digest[:min(len(r.Digest), 19)]
			}
			if !r.StartedAt.IsZero() && !r.FinishedAt.Before(r.StartedAt) {
				took = buildlog.Duration(r.FinishedAt.Sub(r.StartedAt).Milliseconds())
			}
		}
		if b.Position > 0 {
			state += fmt.Sprintf(" #%d", b.Position)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", buildlog.Short(b.ID), state, b.Request.Trigger, buildlog.Clean(buildlog.Source(b.Request.Change)), image, took, buildlog.Ago(now, b.Request.RequestedAt))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// Step is what became of a step of a build.
type Step struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	State  string `json:"state"`
	MS     int64  `json:"ms"` // milliseconds it took
	Cache  string `json:"cache,omitempty"`
	Reason string `json:"reason,omitempty"` // why the cache had nothing
	Pos    string `json:"pos,omitempty"`    // "Dockerfile:7"
	Error  string `json:"error,omitempty"`
}

// Story is what the log of a build tells of its steps and layers. The zero value
// is ready.
type Story struct {
	Steps    []*Step                             `json:"steps"`
	Contents map[string]*events.ProgressContents `json:"contents,omitempty"` // of layers, by digest
	byID     map[string]*Step
}

// Add takes a line of the log.
func (s *Story) Add(line []byte) error {
	p := buildlog.Parse(line)
	switch {
	case p.Kind == events.ProgressLayer && p.Layer != nil && p.Layer.Contents != nil:
		if s.Contents == nil {
			s.Contents = map[string]*events.ProgressContents{}
		}
		s.Contents[p.Layer.Digest] = p.Layer.Contents
	case p.Kind == events.ProgressStep:
		st := s.byID[p.ID]
		if st == nil {
			if s.byID == nil {
				s.byID = map[string]*Step{}
			}
			st = &Step{ID: p.ID}
			s.byID[p.ID] = st
			s.Steps = append(s.Steps, st)
		}
		if p.Name != "" {
			st.Name = p.Name
		}
		if p.Pos != "" {
			st.Pos = p.Pos
		}
		st.State, st.MS, st.Cache, st.Reason, st.Error = p.State, p.MS, p.Cache, p.Reason, p.Error
	}
	return nil
}

// Build writes everything that is known of a build.
func Build(out io.Writer, b api.Build, story Story, now time.Time) error {
	w := newTable(out)
	facts(w, b, now)
	if len(story.Steps) > 0 {
		fmt.Fprintln(w, "\nSTEP\tTOOK\tCACHE")
	}
	for _, s := range story.Steps {
		cache := s.Cache
		if s.State == events.StepCached {
			cache = events.CacheHit
		}
		if s.Reason != "" {
			cache += ": " + s.Reason
		}
		took := buildlog.Duration(s.MS)
		if s.State != events.StepDone && s.State != events.StepCached {
			took = s.State
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", short(s.Name), took, buildlog.Clean(cache))
	}
	if r := b.Result; r != nil && len(r.Layers) > 0 {
		fmt.Fprintln(w, "\nLAYER\tSIZE\tDIGEST")
		for _, l := range r.Layers {
			fmt.Fprintf(w, "%s\t%s\t%.19s\n", short(cmp.Or(l.CreatedBy, "of the base image")), buildlog.Bytes(l.Size), l.Digest)
			largest(w, story.Contents[l.Digest])
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write build: %w", err)
	}
	return nil
}

// largest names the three largest files of a layer.
func largest(w io.Writer, c *events.ProgressContents) {
	if c == nil {
		return
	}
	fmt.Fprintf(w, "  %s\t%s\t\n", buildlog.Count(c.Files, "file"), buildlog.Bytes(c.Bytes))
	for _, f := range c.Largest[:min(len(c.Largest), 3)] {
		fmt.Fprintf(w, "  /%s\t%s\t\n", short(f.Path), buildlog.Bytes(f.Size))
	}
}

// short makes text fit into a column.
func short(text string) string { return cut(buildlog.Clean(text), 60) }

// facts are the lines about a build as a whole.
func facts(w io.Writer, b api.Build, now time.Time) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, buildlog.Clean(value))
		}
	}
	req := b.Request
	line("build", b.ID)
	state := b.State
	if b.Position > 0 {
		state += fmt.Sprintf(", %d in the queue", b.Position)
	}
	line("state", state)
	trigger := req.Trigger
	if req.Tenant != "" {
		trigger += " of " + req.Tenant
	}
	line("trigger", trigger)
	line("from", buildlog.Source(req.Change))
	line("context", strings.TrimSuffix(req.Context+" "+req.ContextSubPath, " "))
	line("dockerfile", req.Dockerfile)
	line("target", req.Target)
	for _, k := range slices.Sorted(maps.Keys(req.Args)) {
		line("arg", k+"="+req.Args[k])
	}
	line("requested", req.RequestedAt.UTC().Format(time.RFC3339)+", "+buildlog.Ago(now, req.RequestedAt))
	r := b.Result
	if r == nil {
		line("image", req.Image)
		return
	}
	line("outcome", word(*r))
	line("reason", r.Reason)
	for text := range strings.SplitSeq(r.Message, "\n") {
		line("message", text)
	}
	line("took", took(*r))
	if r.Digest != "" {
		line("image", req.Image+"@"+r.Digest)
	}
	line("tags", strings.Join(req.Tags, ", "))
	if r.Size > 0 {
		line("size", buildlog.Bytes(r.Size))
	}
	line("platform", r.Platform)
	line("isolation", r.Isolation)
	if r.Cache.Hits+r.Cache.Misses > 0 {
		line("cache", fmt.Sprintf("%d hits, %d misses", r.Cache.Hits, r.Cache.Misses))
	}
	for _, base := range r.Bases {
		line("base", base.Ref+" "+base.Digest)
	}
	if b.Event != nil {
		line("event", eventOf(*b.Event))
	}
}

// took is how long a build ran, and its phases.
func took(r events.Result) string {
	if r.StartedAt.IsZero() || r.FinishedAt.Before(r.StartedAt) {
		return ""
	}
	text := buildlog.Duration(r.FinishedAt.Sub(r.StartedAt).Milliseconds())
	var phases []string
	for _, name := range slices.Sorted(maps.Keys(r.DurationMS)) {
		phases = append(phases, name+" "+buildlog.Duration(r.DurationMS[name]))
	}
	if len(phases) > 0 {
		text += ": " + strings.Join(phases, ", ")
	}
	return text
}

// eventOf names an event.
func eventOf(raw json.RawMessage) string {
	var e struct{ ID, Type string }
	if json.Unmarshal(raw, &e) != nil {
		return ""
	}
	return e.Type + " " + e.ID + " (--event prints it)"
}
