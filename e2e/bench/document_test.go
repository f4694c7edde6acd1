package main

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/golden"
)

// measured are figures of some rows of a run.
func measured(commit string, day, rounds int, names ...string) *figures {
	f := &figures{
		Machine: machine{
			When: time.Date(2026, 11, day, 14, 53, 0, 0, time.UTC), CPU: "Processor", Cores: 2, MemoryGB: 24, Kernel: "6.1", Go: "go1.26", Commit: commit,
			Store: tmpfs, Peers: []string{"BuildKit v0.34.2", "buildah 1.28.2"}, Load: "0.10",
		},
		Samples: results{}, Limited: map[string]map[string]sample{},
	}
	every := func(d time.Duration) (samples []sample) {
		for i := range rounds {
			took := d + time.Duration(i)*time.Millisecond*time.Duration(day)
			samples = append(samples, sample{Wall: took, CPU: took, RSS: 50 << 20, Memory: 60 << 20, Layers: 3, PerRun: took / 100})
		}
		return samples
	}
	for _, w := range workloads(full()) {
		f.order = append(f.order, w.name)
		if slices.Contains(names, w.name) {
			f.list = append(f.list, w)
			f.Samples[w.name] = map[string][]sample{
				overlay: every(time.Second), inPlace: every(2 * time.Second), buildKit: every(20 * time.Second), buildah: every(30 * time.Second)[:1],
			}
		}
		if slices.Contains(names, limitedRow+"/"+w.name) {
			f.Limited[w.name] = map[string]sample{overlay: {Memory: 200 << 20}, inPlace: {Failure: "killed", OOM: int64(day)}}
		}
	}
	if slices.Contains(names, startRow) {
		f.Start = &started{CPU: time.Duration(day) * time.Millisecond, RSS: 12 << 20}
	}
	f.judge()
	return f
}

// TestDocument proves that a run replaces the rows and the tables of what it measured and
// leaves all others as they are, and other stores and texts with them.
func TestDocument(t *testing.T) {
	empty := "before\n" + beginMark(tmpfs) + "not a table\n" + endMark(tmpfs) + "\nbetween\n" + beginMark(disk) + "| copy | of a disk |\n" + endMark(disk) + "after\n"
	first, err := measured("abc1", 1, 5, "copy", "twig", "tree", "memory/copy", "memory/big", startRow).insert(empty)
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "document.md", first)
	again := measured("def2", 2, 1, "twig", "big", "memory/big")
	second, err := again.insert(first)
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "merged.md", second)
	for line := range strings.Lines(first) {
		kept := strings.Contains(second, line)
		replaced := strings.Contains(line, "abc1") && (strings.HasPrefix(line, "| memory/big |") || strings.HasPrefix(line, "**twig: "))
		if strings.HasPrefix(line, "| ") && kept == replaced {
			t.Errorf("kept is %v: %s", kept, line)
		}
	}
	if third, err := again.insert(second); err != nil || third != second {
		t.Errorf("the same figures once more change the document: %v\n%s", err, third)
	}
	// What was measured without a table of its own leaves what is there.
	if got, err := measured("ghi3", 3, 1).insert(second); err != nil || got != second {
		t.Errorf("no figures change the document: %v\n%s", err, got)
	}
	if _, err := again.insert("nothing"); err == nil || !strings.Contains(err.Error(), "bench tmpfs: begin") {
		t.Errorf("a document without marks is taken: %v", err)
	}
}

// TestPerformance proves that what the page of figures has between its marks is as this program
// writes it: nothing of it would be lost.
func TestPerformance(t *testing.T) {
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := measured("none", 1, 1).insert(string(page)); err != nil || got != string(page) {
		t.Errorf("no figures change the page: %v\n%s", err, got)
	}
}

// TestReport proves what a table says of builds that failed and of peers that were not there.
func TestReport(t *testing.T) {
	w := workloads(small())[0]
	f := figures{list: []workload{w}, order: []string{w.name}, Samples: results{w.name: {overlay: {{Wall: time.Second, CPU: time.Second, Layers: 3}}, buildah: {{Failure: "no room\nmore"}}}}}
	f.judge()
	got := f.tables().render(f.names())
	for _, want := range []string{"| Kiln Overlay | 1.00 | 1.00 | 0 |", "| buildah | - | - | - | - | - | - | - | failed: no room |", "(1 round)", "| copy | Kiln Overlay | CPU ≤ 0.1× the better peer's | not measured | missed |"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
