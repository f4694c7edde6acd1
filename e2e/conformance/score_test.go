package conformance

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
)

// result is what became of a case.
type result struct {
	*testCase
	ok        bool
	passed    map[string]bool // by mode
	explained map[string][]compare.Difference
}

// score collects results, of several cases at once.
type score struct {
	mu      sync.Mutex
	results []*result
}

func newScore() *score { return &score{} }

func (s *score) add(r *result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results = append(s.results, r)
}

// tally is a line of the score.
type tally struct{ cases, failed, overlay, inPlace, refused, explained int }

func (a *tally) count(r *result) {
	a.cases++
	if !r.ok {
		a.failed++
	}
	for mode, n := range map[string]*int{overlay: &a.overlay, inPlace: &a.inPlace} {
		if r.passed[mode] && r.builds(mode) {
			*n++
		}
	}
	if r.ok && r.refused != refusedByNone {
		a.refused++
	}
	if len(r.explained[overlay])+len(r.explained[inPlace]) > 0 {
		a.explained++
	}
}

// write writes the score to a file; no file if its name is empty.
func (s *score) write(file string) error {
	if file == "" {
		return nil
	}
	var text strings.Builder
	slices.SortFunc(s.results, func(x, y *result) int { return strings.Compare(x.file, y.file) })
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "feature\tcases\toverlay equal\tinplace equal\trefused as expected\twith a difference explained\tfailed\t")
	byFeature := map[string]*tally{}
	var features []string
	total := &tally{}
	for _, r := range s.results {
		if byFeature[r.feature] == nil {
			byFeature[r.feature] = &tally{}
			features = append(features, r.feature)
		}
		byFeature[r.feature].count(r)
		total.count(r)
	}
	byFeature["all"] = total
	for _, f := range append(features, "all") {
		a := byFeature[f]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", f, a.cases, a.overlay, a.inPlace, a.refused, a.explained, a.failed)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	s.writeExplained(&text)
	return os.WriteFile(file, []byte(text.String()), 0o644)
}

// writeExplained lists what is not as with BuildKit, and why.
func (s *score) writeExplained(text *strings.Builder) {
	text.WriteString("\nDifferences to BuildKit:\n")
	for _, r := range s.results {
		if r.reason != "" {
			what := string(r.refused)
			if r.onlyOverlay {
				what = "only-overlay"
			}
			fmt.Fprintf(text, "  %s/%s: %s: %s\n", r.feature, r.name, what, r.reason)
		}
		for _, mode := range []string{overlay, inPlace} {
			for _, rule := range r.allow[mode] {
				fmt.Fprintf(text, "  %s/%s: %s: %s\n", r.feature, r.name, mode, rule)
			}
		}
		if !r.ok {
			fmt.Fprintf(text, "  %s/%s: FAILED\n", r.feature, r.name)
		}
	}
}
