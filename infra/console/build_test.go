package console

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/golden"
	"github.com/kilnhook/kiln/events"
)

func at(ms int) time.Time {
	return time.Date(2026, 3, 4, 11, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
}

// story of a build of two steps, as an executor tells it.
func records() []events.Progress {
	const one, two = "[stage-0 1/2] COPY . /app/", "[stage-0 2/2] RUN make"
	phase := func(ms int, id, kind, state string, took, bytes int64) events.Progress {
		return events.Progress{Time: at(ms), Kind: events.ProgressPhase, ID: id, Phase: kind, State: state, MS: took, Current: bytes}
	}
	return []events.Progress{
		{Time: at(0), Kind: events.ProgressNote, Text: "isolation: overlay\nsecond line"},
		{Time: at(0), Kind: events.ProgressStep, ID: "fetch", Name: "load context", Phase: "load", State: "started"},
		{Time: at(100), Kind: events.ProgressStep, ID: "fetch", Name: "load context", Phase: "load", State: "done", MS: 100},
		phase(100, "1.0", "pull", "started", 0, 0), phase(120, "1.0", "extract", "started", 0, 0),
		phase(400, "1.0", "pull", "done", 300, 5_000_000), phase(450, "1.0", "extract", "done", 330, 5_000_000),
		{Time: at(450), Kind: events.ProgressStep, ID: "1.1", Name: one, Phase: "copy", State: "started", Pos: "Dockerfile:2"},
		{Time: at(500), Kind: events.ProgressStep, ID: "1.1", Name: one, Phase: "copy", State: "cached", MS: 50, Cache: "hit"},
		{Time: at(500), Kind: events.ProgressStep, ID: "1.2", Name: two, Phase: "run", State: "started"},
		phase(500, "1.2", "run", "started", 0, 0),
		{Time: at(600), Kind: events.ProgressOutput, ID: "1.2", Stream: 1, Text: "\x1b[32mok\x1b[0m " + evil},
		{Time: at(700), Kind: events.ProgressOutput, ID: "1.2", Stream: 2, Text: "careful"},
		phase(900, "1.2", "run", "done", 400, 0), phase(900, "1.2", "layer", "started", 0, 0),
		{Time: at(950), Kind: events.ProgressStep, ID: "1.2", Name: two, Phase: "run", State: "done", MS: 450, Cache: "miss", Reason: "no entry",
			Inputs: &events.ProgressInputs{Before: "aaaaaaaaaaaa", Instruction: "bbbbbbbbbbbb", Content: "cccccccccccc"}},
		phase(990, "1.2", "layer", "done", 90, 1_234_567),
		{Time: at(990), Kind: events.ProgressLayer, ID: "1.2", Layer: &events.ProgressBlob{Digest: "sha256:" + fmt.Sprintf("%064x", 1_000_003), Size: 1_234_567,
			Contents: &events.ProgressContents{Files: 2, Removed: 1, Bytes: 3_000_000, Largest: []events.ProgressFile{{Path: "app/" + evil, Size: 2_999_000}}}}},
		{Time: at(1000), Kind: events.ProgressResult, Text: "sha256:0123"},
	}
}

// The page of a build is the golden file. It says everything that is known, and no
// text of the build is markup.
func TestBuildPage(t *testing.T) {
	w, l := newWorld(t, nil)
	older, was := buildOf(12, "web")
	add(t, l, older, was)
	w.logs[older.BuildID] = strings.ReplaceAll(logOf(t, records()...), "cccccccccccc", "dddddddddddd")
	req, res := buildOf(3, "web")
	req.Change.Name = "refs/heads/" + evil
	req.Labels = map[string]string{"note": evil}
	res.Bases = []events.BaseInfo{{Ref: "debian:12", Digest: "sha256:" + strings.Repeat("d", 64)}}
	add(t, l, req, res)
	w.logs[req.BuildID] = logOf(t, records()...)
	if err := w.index.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	body := w.get("/builds/" + req.BuildID)
	has(t, "the page", body,
		"docker pull registry.example.com/web@"+res.Digest, "debian:12", `<rect class="p-pull"`, `<rect class="p-extract"`, `<rect class="p-run"`, `<rect class="p-layer"`,
		"compress, 90ms, 1.2 MB", "miss: no entry", "changed: the files it reads", `class="hit">hit`, `<span class="fg2">ok</span>`, "1 removed",
		"&lt;script&gt;alert(1)&lt;/script&gt;", "Against <a href=\"/builds/"+older.BuildID, "−9.0 kB", "&#34;dev.kilnhook.build.finished.v1&#34;")
	if strings.Contains(body, evil) {
		t.Error("markup got through")
	}
	_, body, _ = strings.Cut(body, `<section id="timeline"`)
	timeline, rest, _ := strings.Cut(body, `<section id="changes"`)
	golden.Equal(t, "build.html", `<section id="timeline"`+timeline)
	if !strings.Contains(rest, "What triggered it") {
		t.Error("no events")
	}
}

// Lines of a step are found again wherever they are in the log, also those of steps
// that print at the same time.
func TestLines(t *testing.T) {
	w, l := newWorld(t, nil)
	req, _ := buildOf(1, "web")
	add(t, l, req, nil)
	var all []events.Progress
	for i := range 3000 {
		id := []string{"1.1", "2.1"}[i%2]
		if i < 2 {
			all = append(all, events.Progress{Time: at(0), Kind: events.ProgressStep, ID: id, Name: "RUN " + id, Phase: "run", State: "started"})
		}
		all = append(all, events.Progress{Time: at(i), Kind: events.ProgressOutput, ID: id, Text: fmt.Sprintf("line %d of %s", i/2+1, id)})
	}
	all = append(all, events.Progress{Kind: events.ProgressNote, ID: "2.1", Text: "first\nsecond\nthird"})
	whole := logOf(t, all...)
	half := strings.LastIndexByte(whole[:len(whole)/2], '\n') + 1
	w.logs[req.BuildID] = whole[:half]
	w.get("/builds/" + req.BuildID) // the story begins, and goes on later
	w.logs[req.BuildID] = whole
	body := w.get("/builds/" + req.BuildID + "/lines?step=2&from=1234&count=2")
	has(t, "the answer", body, `"from":1234,"total":1503,"lines":[{"n":1235,"s":[{"t":"line 1235 of 2.1"}],"at":"2.5"},{"n":1236,`)
	has(t, "the end", w.get("/builds/"+req.BuildID+"/lines?step=2&from=1501"), `{"n":1502,"s":[{"t":"second"}]},{"n":1503,"s":[{"t":"third"}]}]`)
	has(t, "the first page", w.get("/builds/"+req.BuildID+"/log?step=1&page=1"), "Lines 1 to 1000 of 1500", "line 1 of 1.1", `page=2&amp;step=1" rel="next"`)
	has(t, "the last page", w.get("/builds/"+req.BuildID+"/log?step=1"), "Lines 1001 to 1500 of 1500", "line 1500 of 1.1")
	page := w.get("/builds/" + req.BuildID)
	has(t, "the page", page, "1300 earlier lines", "line 1500 of 1.1", "Cancel", `http-equiv="refresh"`)
	if n := strings.Count(page, `class="l"`); n != 2*tailLines {
		t.Errorf("the page has %d lines", n)
	}
	for path, want := range map[string]int{"/lines?step=9": 404, "/lines?step=x": 400, "/lines?from=-1": 400, "/log?page=zero": 400} {
		if status, _, _ := w.do("GET", "/builds/"+req.BuildID+path, nil); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
}

// Another attempt of a build begins its steps anew; a log that cannot be read line by
// line is shown as it is.
func TestStory(t *testing.T) {
	s := newStory()
	lines := logOf(t,
		events.Progress{Time: at(0), Kind: "step", ID: "1.1", Name: "RUN a", Phase: "run", State: "started"},
		events.Progress{Time: at(50), Kind: "step", ID: "1.1", Name: "RUN a", Phase: "snapshot", State: "started"},
		events.Progress{Time: at(70), Kind: "step", ID: "1.1", Name: "RUN a", Phase: "run", State: "failed", MS: 70, Error: "broke"},
		events.Progress{Time: at(90), Kind: "step", ID: "1.1", Name: "RUN a", Phase: "run", State: "started"},
	) + "panic: not JSON\n" + `{"kind":"layer"}` + "\n" + `{"kind":"phase","id":"9.9","phase":"run","state":"done"}` + "\n{\n"
	if err := s.read(t.Context(), memLogs{"x": lines}, "x"); err != nil {
		t.Fatal(err)
	}
	steps, _ := s.snapshot()
	if len(steps) != 4 || steps[1].State != "failed" || steps[2].State != "started" || len(steps[0].Lines) != 2 {
		t.Fatalf("%+v", steps)
	}
	// Of a step that tells no phases they are those that it changed to.
	if p := steps[1].Phases; len(p) != 2 || p[0].Kind != "run" || p[0].End != at(50) || p[1].Kind != "snapshot" || p[1].End != at(70) {
		t.Errorf("%+v", p)
	}
}

// Everything that a browser loads for a page is small: 150 kB compressed at most.
func TestSize(t *testing.T) {
	w, l := newWorld(t, nil)
	req, res := buildOf(3, "web")
	add(t, l, req, res)
	w.logs[req.BuildID] = logOf(t, records()...)
	var all bytes.Buffer
	z := gzip.NewWriter(&all)
	page := w.get("/builds/" + req.BuildID)
	fmt.Fprint(z, page)
	for name := range w.assets {
		fmt.Fprint(z, w.get("/static/"+name))
		has(t, "the page", page, name)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes compressed", all.Len())
	if all.Len() > 150_000 {
		t.Errorf("a page is %d bytes compressed", all.Len())
	}
	for _, text := range []string{"http://", "https://", "//cdn", "style=", "onclick", "<script>"} {
		if rest := strings.ReplaceAll(page, "http://www.w3.org", ""); strings.Contains(rest, text) && text != "https://" {
			t.Errorf("the page has %q", text)
		}
	}
}
