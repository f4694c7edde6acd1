package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// machine is where and how the figures were measured.
type machine struct {
	When     time.Time     `json:"when"`
	Took     time.Duration `json:"took"`
	CPU      string        `json:"cpu"`
	Cores    int           `json:"cores"`
	MemoryGB float64       `json:"memoryGiB"`
	Kernel   string        `json:"kernel"`
	Go       string        `json:"go"`
	Commit   string        `json:"commit"`
	Store    string        `json:"store"`
	Peers    []string      `json:"peers"`
	Load     string        `json:"load"`    // of the minute before
	Process  int           `json:"process"` // that measured
}

func (m machine) String() string {
	return fmt.Sprintf("%s: Kiln %s against %s; %s; %s, %d cores, %.0f GiB, Linux %s; load before: %s",
		m.When.UTC().Format("2 January 2006 15:04 MST"), m.Commit, strings.Join(m.Peers, " and "), m.Go,
		m.CPU, m.Cores, m.MemoryGB, m.Kernel, m.Load)
}

// brief is when what was measured.
func (m machine) brief() string { return m.When.UTC().Format("2006-01-02 15:04 ") + m.Commit }

// row is one line of a table.
type row []string

func columns() row {
	return row{"builder", "wall s", "CPU s", "largest process MiB", "group peak MiB", "sent MB", "received MB", "requests", "layers"}
}

// rows are the medians of a workload, and the ratios to the better peers.
func (f *figures) rows(w workload) []row {
	var rows []row
	for _, who := range []string{overlay, inPlace, buildKit, buildah} {
		samples, tried := f.Samples[w.name][who]
		if !tried {
			continue
		}
		if f := failure(samples); f != "" {
			rows = append(rows, row{who, "-", "-", "-", "-", "-", "-", "-", f})
			continue
		}
		number := func(m metric, scale float64, digits int) string {
			return fmt.Sprintf("%.*f", digits, f.Samples.median(w.name, who, m)/scale)
		}
		rows = append(rows, row{
			who, number(wall, 1, 2), number(cpu, 1, 2), number(rss, 1<<20, 0), number(memory, 1<<20, 0),
			number(sentBytes, 1e6, 1), number(received, 1e6, 1), number(requests, 1, 0), fmt.Sprint(samples[0].Layers),
		})
	}
	for _, who := range []string{overlay, inPlace} {
		if byWall, byCPU := f.Samples.better(w.name, wall), f.Samples.better(w.name, cpu); byWall != "" && len(f.Samples[w.name][who]) > 0 {
			rows = append(rows, row{who + " / better peer", f.times(w, who, byWall, wall), f.times(w, who, byCPU, cpu), "", "", "", "", "", ""})
		}
	}
	return rows
}

// times is the ratio of two builders as a table has it.
func (f *figures) times(w workload, who, peer string, m metric) string {
	v := f.Samples.ratio(w.name, who, peer, m)
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.2f× %s", v, peer)
}

// failure is the first line of what went wrong in one of the samples.
func failure(samples []sample) string {
	for _, s := range samples {
		if s.Failure != "" {
			first, _, _ := strings.Cut(s.Failure, "\n")
			return "failed: " + first
		}
	}
	return ""
}

// notes are figures that only some workloads have.
func (f *figures) notes(w workload) []string {
	var notes []string
	for _, who := range []string{overlay, inPlace, buildKit, buildah} {
		samples := f.Samples[w.name][who]
		if len(samples) == 0 || failure(samples) != "" {
			continue
		}
		if w.runs > 1 && strings.HasPrefix(who, both) {
			notes = append(notes, fmt.Sprintf("%s: %.1f ms CPU for each further RUN", who, f.Samples.median(w.name, who, perRun)*1000))
		}
		if w.rtt > 0 {
			notes = append(notes, fmt.Sprintf("%s: %.1f round trips of wall time", who, f.Samples.median(w.name, who, roundTrips)))
		}
	}
	return notes
}

// heading is the title of a workload with the number of rounds, and of those who built
// in fewer.
func (f *figures) heading(w workload) string {
	rounds, fewer := 0, ""
	for _, samples := range f.Samples[w.name] {
		rounds = max(rounds, len(samples))
	}
	for _, who := range []string{buildKit, buildah} {
		if n := len(f.Samples[w.name][who]); n > 0 && n < rounds {
			fewer += fmt.Sprintf(", %s %d", who, n)
		}
	}
	unit := "rounds"
	if rounds == 1 {
		unit = "round"
	}
	return fmt.Sprintf("%s: %s (%d %s%s)", w.name, w.title, rounds, unit, fewer)
}

// text prints tables for a terminal.
func (f *figures) text(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, w := range f.list {
		fmt.Fprintf(t, "\n%s\n%s\n", f.heading(w), strings.Join(columns(), "\t"))
		for _, r := range f.rows(w) {
			fmt.Fprintln(t, strings.Join(r, "\t"))
		}
		for _, n := range f.notes(w) {
			fmt.Fprintln(t, n)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	columns := verdictColumns()
	fmt.Fprintf(t, "\ntargets\n%s\n", strings.Join(columns[:len(columns)-1], "\t"))
	for _, v := range f.Targets {
		fmt.Fprintln(t, strings.Join(v.row(), "\t"))
	}
	fmt.Fprintf(t, "\nroots and stores on %s. %s; took %.0f s.\n", f.Machine.Store, f.Machine, f.Machine.Took.Seconds())
	return t.Flush()
}

// verdictColumns are those of a document; on a terminal the last, which run it was, is not
// needed.
func verdictColumns() row { return row{"workload", "builder", "target", "measured", "", "run"} }

func (v verdict) row() row {
	word := "missed"
	if v.Met {
		word = "met"
	}
	return row{v.Workload, v.Builder, v.Target, v.Measured, word}
}

// save writes the figures to the files that were asked for.
func (f *figures) save(o options) error {
	raw, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{o.json: raw, o.markdown: []byte(f.tables().render(f.names()))} {
		if path == "" {
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			return err
		}
	}
	if o.write == "" {
		return nil
	}
	document, err := os.ReadFile(o.write)
	if err != nil {
		return err
	}
	text, err := f.insert(string(document))
	if err != nil {
		return fmt.Errorf("write the tables to %s: %w", o.write, err)
	}
	return os.WriteFile(o.write, []byte(text), 0o644)
}
