// Package observe makes what happens visible to machines: metrics in the form
// of Prometheus, and traces from the event to the push in the form of
// OpenTelemetry.
package observe

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kilnhook/kiln/events"
)

// Metrics counts what happens. Its methods may be called concurrently.
type Metrics struct {
	registry *prometheus.Registry
	last     atomic.Uint64 // place of the newest event that was counted

	requests  *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	requested *prometheus.CounterVec
	finished  *prometheus.CounterVec
	rejected  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	swept     prometheus.Gauge
	failed    prometheus.Counter
}

// Load tells how many builds wait and how many run.
type Load func() (queued, running int)

// NewMetrics returns metrics that also say what load says and, of the process,
// what is usual. version is of the program.
func NewMetrics(version string, load Load) *Metrics {
	seconds := []float64{.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_http_requests_total", Help: "Requests by the door through which they came and the status they got.",
		}, []string{"door", "code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kiln_http_request_duration_seconds", Help: "Time from a request to its answer: until a change is durable.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"door"}),
		requested: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_builds_requested_total", Help: "Builds that changes called for.",
		}, []string{"tenant", "trigger"}),
		finished: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_builds_finished_total", Help: "Builds by how they ended.",
		}, []string{"tenant", "trigger", "outcome", "class"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_changes_rejected_total", Help: "Changes that are not built, and requests that could not be understood (trigger is empty).",
		}, []string{"trigger"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kiln_build_duration_seconds", Help: "Time that builds took: in the queue, in each phase of the executor, and in all.", Buckets: seconds,
		}, []string{"phase"}),
		swept:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "kiln_sweep_last_success_timestamp_seconds", Help: "When a sweep last went through."}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "kiln_sweep_failures_total", Help: "Sweeps that did not go through."}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kiln_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	builds := func(state string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kiln_builds", Help: "Builds that wait or run now.", ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(value()) })
	}
	m.registry.MustRegister(
		m.requests, m.latency, m.requested, m.finished, m.rejected, m.duration, m.swept, m.failed, info,
		builds("queued", func() int { q, _ := load(); return q }), builds("running", func() int { _, r := load(); return r }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Doors counts the requests to a handler that doors name, by their paths; the
// others count together.
func (m *Metrics) Doors(doors []string, now func() time.Time, h http.Handler) http.Handler {
	known := map[string]bool{}
	for _, d := range doors {
		known[d] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		door := r.URL.Path
		if !known[door] {
			door = "other"
		}
		begin := now()
		s := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(s, r)
		m.requests.WithLabelValues(door, strconv.Itoa(s.status)).Inc()
		m.latency.WithLabelValues(door).Observe(now().Sub(begin).Seconds())
	})
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find what the writer can do besides.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Swept notes that a sweep ended.
func (m *Metrics) Swept(at time.Time, err error) {
	if err != nil {
		m.failed.Inc()
		return
	}
	m.swept.Set(float64(at.UnixMilli()) / 1000)
}

// Event counts an event that was published at a place of the bus; 0 if the bus
// has no places. One that is published again has its old place and is not
// counted again.
func (m *Metrics) Event(e event.Event, place uint64) {
	if place > 0 {
		for {
			last := m.last.Load()
			if place <= last {
				return
			}
			if m.last.CompareAndSwap(last, place) {
				break
			}
		}
	}
	ext := e.Extensions()
	text := func(name string) string { s, _ := ext[name].(string); return s }
	switch e.Type() {
	case events.TypeBuildRequested:
		m.requested.WithLabelValues(text(events.ExtTenant), text(events.ExtTrigger)).Inc()
	case events.TypeTriggerRejected:
		m.rejected.WithLabelValues(text(events.ExtTrigger)).Inc()
	case events.TypeBuildFinished:
		var data events.Finished
		if json.Unmarshal(e.Data(), &data) != nil {
			return
		}
		m.finished.WithLabelValues(data.Build.Tenant, data.Build.Trigger, string(data.Outcome), string(data.Class)).Inc()
		m.durations(data.Build)
	}
}

// durations observes the phases of a build.
func (m *Metrics) durations(b events.BuildInfo) {
	between := func(phase string, from, to time.Time) {
		if !from.IsZero() && !to.Before(from) {
			m.duration.WithLabelValues(phase).Observe(to.Sub(from).Seconds())
		}
	}
	between("queue", b.RequestedAt, b.StartedAt)
	between("total", b.RequestedAt, b.FinishedAt)
	for _, phase := range []string{"fetch", "build", "push"} { // an executor's own names are not trusted to be few
		if ms, ok := b.DurationMS[phase]; ok && ms >= 0 {
			m.duration.WithLabelValues(phase).Observe(float64(ms) / 1000)
		}
	}
}
