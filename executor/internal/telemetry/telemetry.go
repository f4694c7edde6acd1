// Package telemetry turns what a build says while it works into the spans of a
// trace, and sends them to a collector by OTLP over HTTP, in its JSON form
// (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP").
package telemetry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/kilnhook/kiln/executor/internal/progress"
)

// Options of a Recorder. Endpoint and Transport are required.
type Options struct {
	// Endpoint is the URL that traces are sent to.
	Endpoint string
	// Header is sent with them.
	Header http.Header
	// Resource describes this program, as "service.name".
	Resource map[string]string
	// Parent is a traceparent of W3C's Trace Context that the build is a part
	// of; "" or one that is not valid: none.
	Parent string
	// OmitDockerfile leaves out what may quote the Dockerfile: the text of
	// steps, their places and errors.
	OmitDockerfile bool
	// Transport carries the request.
	Transport http.RoundTripper
}

// Recorder remembers spans until they are sent. It is safe for concurrent use.
type Recorder struct {
	opt           Options
	trace, parent string

	mu    sync.Mutex
	root  span
	open  map[string]*span // by id of the step
	spans []*span
}

// span is a span in OTLP's JSON: 64-bit numbers are strings, ids are hex.
type span struct {
	TraceID string      `json:"traceId"`
	SpanID  string      `json:"spanId"`
	Parent  string      `json:"parentSpanId,omitempty"`
	Name    string      `json:"name"`
	Kind    int         `json:"kind"` // 1: internal
	Start   int64       `json:"startTimeUnixNano,string"`
	End     int64       `json:"endTimeUnixNano,string"`
	Attrs   []attribute `json:"attributes,omitempty"`
	Status  statusJSON  `json:"status"`
}

type statusJSON struct {
	Code    int    `json:"code,omitempty"` // 2: error
	Message string `json:"message,omitempty"`
}

type attribute struct {
	Key   string `json:"key"`
	Value value  `json:"value"`
}

type value struct {
	String string `json:"stringValue"`
}

// New begins a trace at the given time.
func New(opt Options, begun time.Time) *Recorder {
	r := &Recorder{opt: opt, trace: id(16), open: map[string]*span{}}
	if trace, parent, ok := parseParent(opt.Parent); ok {
		r.trace, r.parent = trace, parent
	}
	r.root = span{TraceID: r.trace, SpanID: id(8), Parent: r.parent, Name: "build", Kind: 1, Start: begun.UnixNano()}
	return r
}

// id is random and, as OTLP wants it, not zero.
func id(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	b[0] |= 1
	return hex.EncodeToString(b)
}

// parseParent reads "00-<trace>-<span>-<flags>".
func parseParent(s string) (trace, parent string, ok bool) {
	f := strings.Split(s, "-")
	if len(f) < 4 || len(f[0]) != 2 || f[0] == "ff" || len(f[1]) != 32 || len(f[2]) != 16 {
		return "", "", false
	}
	for _, h := range f[1:3] {
		if strings.Trim(h, "0123456789abcdef") != "" || strings.Trim(h, "0") == "" {
			return "", "", false
		}
	}
	return f[1], f[2], true
}

// Event takes note of an event of the build.
func (r *Recorder) Event(e progress.Event) {
	if e.Kind != progress.KindStep {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.open[e.ID]
	if s == nil {
		s = &span{TraceID: r.trace, SpanID: id(8), Parent: r.root.SpanID, Kind: 1, Start: e.Time.UnixNano()}
		r.open[e.ID] = s
		r.spans = append(r.spans, s)
	}
	if e.State == progress.StateStarted {
		r.describe(s, e)
		return
	}
	s.End = e.Time.UnixNano()
	if s.Name == "" {
		r.describe(s, e)
	}
	if e.State == progress.StateCached {
		s.Attrs = append(s.Attrs, attribute{"kiln.cached", value{"true"}})
	}
	if e.State == progress.StateFailed {
		s.Status = r.failed(e.Error)
	}
	delete(r.open, e.ID)
}

func (r *Recorder) failed(text string) statusJSON {
	if r.opt.OmitDockerfile {
		text = ""
	}
	return statusJSON{Code: 2, Message: text}
}

func (r *Recorder) describe(s *span, e progress.Event) {
	s.Name = e.Name
	s.Attrs = nil
	add := func(key, v string) {
		if v != "" {
			s.Attrs = append(s.Attrs, attribute{key, value{v}})
		}
	}
	add("kiln.step.id", e.ID)
	add("kiln.step.phase", string(e.Phase))
	if r.opt.OmitDockerfile {
		s.Name = strings.TrimSpace(string(e.Phase) + " " + e.ID)
	} else {
		add("kiln.step.position", e.Pos)
	}
	if s.Name == "" {
		s.Name = "step " + e.ID
	}
}

// sendTimeout is how long sending may take.
const sendTimeout = 10 * time.Second

// End ends the build's span, with an error or attributes, and sends everything.
func (r *Recorder) End(ctx context.Context, at time.Time, failure error, attributes map[string]string) error {
	body, err := r.finish(at, failure, attributes)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sendTimeout, errors.New("the collector did not answer in time"))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.opt.Endpoint, bytes.NewReader(body))
	if err != nil {
		return errors.New("send telemetry: the endpoint is not a valid URL")
	}
	req.Header = r.opt.Header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: r.opt.Transport}
	resp, err := client.Do(req)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) { // it quotes the URL, which may hold secrets
			err = bad.Err
		}
		return fmt.Errorf("send telemetry to %s: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode >= 300 {
		return fmt.Errorf("send telemetry to %s: the collector answered %s", req.URL.Host, resp.Status)
	}
	return nil
}

// finish closes all spans and returns what is to be sent.
func (r *Recorder) finish(at time.Time, failure error, attributes map[string]string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.root.End = at.UnixNano()
	r.root.Attrs = sorted(attributes)
	if failure != nil {
		r.root.Status = r.failed(failure.Error())
	}
	for _, s := range r.open {
		s.End = at.UnixNano()
	}
	return json.Marshal(export{[]resourceSpans{{
		Resource:   resource{sorted(r.opt.Resource)},
		ScopeSpans: []scopeSpans{{Scope: scope{"github.com/kilnhook/kiln/executor"}, Spans: append([]*span{&r.root}, r.spans...)}},
	}}})
}

// The envelope of spans.
type (
	export struct {
		ResourceSpans []resourceSpans `json:"resourceSpans"`
	}
	resourceSpans struct {
		Resource   resource     `json:"resource"`
		ScopeSpans []scopeSpans `json:"scopeSpans"`
	}
	resource struct {
		Attributes []attribute `json:"attributes"`
	}
	scopeSpans struct {
		Scope scope   `json:"scope"`
		Spans []*span `json:"spans"`
	}
	scope struct {
		Name string `json:"name"`
	}
)
