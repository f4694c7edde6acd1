package buildlog

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/kilnhook/kiln/events"
)

const sample = `{"time":"2026-01-02T03:04:05Z","kind":"note","text":"isolation: overlay"}
{"time":"2026-01-02T03:04:05Z","kind":"step","id":"1.1","name":"[builder 1/2] FROM debian","phase":"pull","state":"started"}
{"time":"2026-01-02T03:04:05.5Z","kind":"bytes","id":"1.1","current":5,"total":10}
{"time":"2026-01-02T03:04:06Z","kind":"step","id":"1.1","state":"done","ms":1200}
{"time":"2026-01-02T03:04:06Z","kind":"step","id":"2.1","name":"[app 1/2] COPY a b","state":"cached"}
{"time":"2026-01-02T03:04:06Z","kind":"step","id":"1.2","name":"[builder 2/2] RUN make","phase":"run","state":"started"}
{"time":"2026-01-02T03:04:06.4Z","kind":"output","id":"1.2","stream":1,"text":"hello \u001b[31mred\u001b[0m"}
not json at all
{"time":"2026-01-02T03:04:08Z","kind":"step","id":"1.2","state":"failed","error":"status 2","pos":"Dockerfile:7"}
{"time":"2026-01-02T03:04:08Z","kind":"result","error":"Dockerfile:7: RUN make: status 2"}
`

// A log reads as numbered steps with their output, durations and ends.
func TestReader(t *testing.T) {
	var r Reader
	var got []string
	for line := range strings.Lines(sample) {
		got = append(got, r.Add(Parse([]byte(line)))...)
	}
	want := `-- isolation: overlay
#1 [builder 1/2] FROM debian
#1 done 1.2s
#2 [app 1/2] COPY a b
#2 cached
#3 [builder 2/2] RUN make
#3 0.4s hello red
-- not json at all
#3 Dockerfile:7: failed: status 2
ERROR: Dockerfile:7: RUN make: status 2`
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("%s\nwant\n%s", s, want)
	}
	if got := r.Label(events.Progress{ID: "1.1"}); got != "#1 [builder 1/2] FROM debian" {
		t.Errorf("label of a step: %s", got)
	}
	blob := events.Progress{Kind: events.ProgressBytes, Phase: "extract", Name: "0cf9f8380a2c"}
	if got := r.Label(blob); got != "extract 0cf9f8380a2c" || r.Add(blob) != nil {
		t.Errorf("label of a blob: %s", got)
	}
	steps := r.Steps()
	if len(steps) != 3 || steps[0].Total != 10 || steps[1].State != events.StepCached || steps[2].MS != 2000 || steps[2].Error != "status 2" {
		t.Errorf("%+v", steps)
	}
}

// A step that another attempt begins again is another step; one that goes on
// to its next phase is the same.
func TestSecondAttempt(t *testing.T) {
	var r Reader
	var got []string
	for range 2 {
		for _, p := range []events.Progress{{State: events.StepStarted, Phase: "run"}, {State: events.StepStarted, Phase: "snapshot"}, {State: events.StepDone}} {
			p.Kind, p.ID, p.Name, p.MS = events.ProgressStep, "1", "RUN x", 1
			got = append(got, r.Add(p)...)
		}
	}
	got = append(got, r.Add(events.Progress{Kind: events.ProgressStep, ID: "1", Name: "RUN x", State: events.StepStarted, Phase: "run"})...)
	got = append(got, r.Add(events.Progress{Kind: events.ProgressStep, ID: "1", Name: "RUN x", State: events.StepStarted, Phase: "run"})...)
	if s := strings.Join(got, "|"); s != "#1 RUN x|#1 done 1ms|#2 RUN x|#2 done 1ms|#3 RUN x|#4 RUN x" {
		t.Errorf("%s", s)
	}
}

// Nothing that a RUN prints reaches the terminal's controls.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext":              "plain\ttext",
		"\x1b]0;title\x07after":    "after",
		"\x1b]8;;http://x\x1b\\ln": "ln",
		"\x1b[2J\x1b[1;1Hgone":     "gone",
		"10%\r50%\r100%\r":         "100%",
		"a\u202eb":                 "ab",
		"\x1b":                     "",
		"bad \xff utf8 größe":      "bad \uFFFD utf8 größe",
		"c1 \u009b31m":             "c1 31m",
	} {
		if got := Clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Durations and sizes read well at their borders.
func TestUnits(t *testing.T) {
	for ms, want := range map[int64]string{0: "0ms", 999: "999ms", 1000: "1.0s", 61_000: "1m01s", 3_660_000: "1h01m"} {
		if got := Duration(ms); got != want {
			t.Errorf("%d: %s", ms, got)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_950: "1.0 MB", 1_500_000_000: "1.5 GB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

// No line makes the reader panic or lets a control character through.
func FuzzAdd(f *testing.F) {
	for line := range strings.Lines(sample) {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var r Reader
		for range 2 {
			for _, s := range r.Add(Parse(line)) {
				if !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return c != '\t' && unicode.IsControl(c) }) {
					t.Errorf("%q", s)
				}
			}
		}
		_ = r.Steps()
	})
}
