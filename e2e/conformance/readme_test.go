package conformance

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The table of README.md stands between these lines.
const (
	tableBegin = "<!-- The table is made from e2e/conformance: go test ./e2e/conformance -run README -update -->\n"
	tableEnd   = "<!-- end of the table -->\n"
)

// row is a line of the table.
type row struct {
	name     string
	features []string
}

// TestREADME proves that the table of README.md says what the corpus says.
func TestREADME(t *testing.T) {
	cases, err := readCorpus("testdata")
	if err != nil {
		t.Fatal(err)
	}
	table, err := readmeTable(cases)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", "README.md")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(content), tableBegin)
	old, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no lines %q and %q", file, tableBegin, tableEnd)
	}
	if given().update {
		if err := os.WriteFile(file, []byte(before+tableBegin+table+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != table {
		t.Errorf("the table in %s is not that of the corpus: run go test ./e2e/conformance -run README -update", file)
	}
}

// readRows reads the rows of the table.
func readRows(file string) ([]row, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var rows []row
	for line := range strings.Lines(string(content)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, features, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			return nil, fmt.Errorf("%s: %q: want NAME: FEATURE…", file, line)
		}
		rows = append(rows, row{name, strings.Fields(features)})
	}
	return rows, nil
}

// readmeTable renders the table. Every feature must be in one row.
func readmeTable(cases []*testCase) (string, error) {
	rows, err := readRows(filepath.Join("testdata", "rows"))
	if err != nil {
		return "", err
	}
	byFeature := map[string][]*testCase{}
	for _, c := range cases {
		byFeature[c.feature] = append(byFeature[c.feature], c)
	}
	var out strings.Builder
	out.WriteString("| Dockerfile | cases | overlay | in place | errors | refused, though BuildKit builds it |\n|---|--:|--:|--:|--:|---|\n")
	var errs []error
	for _, r := range rows {
		var all []*testCase
		for _, f := range r.features {
			if len(byFeature[f]) == 0 {
				errs = append(errs, fmt.Errorf("testdata/rows has the feature %q, which is not there or in two rows", f))
			}
			all = append(all, byFeature[f]...)
			delete(byFeature, f)
		}
		out.WriteString(r.line(all))
	}
	for _, f := range slices.Sorted(maps.Keys(byFeature)) {
		errs = append(errs, fmt.Errorf("testdata/rows does not have the feature %q", f))
	}
	return out.String(), errors.Join(errs...)
}

// line renders the row of the cases.
func (r row) line(cases []*testCase) string {
	links := make([]string, len(r.features))
	for i, f := range r.features {
		links[i] = fmt.Sprintf("[%s](e2e/conformance/testdata/%s)", f, f)
	}
	built := map[string]int{}
	other := map[string]int{}
	refused := 0
	var messages []string
	for _, c := range cases {
		if c.refused == refusedByAll {
			refused++
		}
		for _, mode := range []string{overlay, inPlace} {
			if c.builds(mode) && (mode == overlay || !c.onlyOverlay) {
				built[mode]++
			}
			if len(c.allow[mode]) > 0 {
				other[mode]++
			}
		}
		if m := c.refusal(); m != "" && !slices.Contains(messages, m) {
			messages = append(messages, m)
		}
	}
	works := func(mode string) string {
		if other[mode] == 0 {
			return fmt.Sprint(built[mode])
		}
		return fmt.Sprintf("%d, %d otherwise", built[mode], other[mode])
	}
	return fmt.Sprintf("| %s: %s | %d | %s | %s | %d | %s |\n", r.name, strings.Join(links, " "), len(cases),
		works(overlay), works(inPlace), refused, strings.Join(messages, "<br>"))
}

// refusal is the message with which the executor refuses what BuildKit builds,
// "" if it does not.
func (c *testCase) refusal() string {
	if c.refused != refusedByKiln && c.refused != refusedInPlace {
		return ""
	}
	message, _ := c.expected("error")
	message = strings.TrimSpace(message)
	if _, err, ok := strings.Cut(message, "…: "); ok {
		message = err
	} else {
		message = c.withoutInstruction(message)
	}
	message = "`" + strings.ReplaceAll(message, "|", `\|`) + "`"
	if c.refused == refusedInPlace {
		message = "in place: " + message
	}
	return message
}

// withoutInstruction takes the position and the instruction off a message.
func (c *testCase) withoutInstruction(message string) string {
	for _, f := range c.archive.Files {
		if f.Name != "Dockerfile" {
			continue
		}
		for line := range strings.Lines(string(f.Data)) {
			if _, rest, ok := strings.Cut(message, ": "+strings.TrimSpace(line)+": "); ok {
				return rest
			}
		}
	}
	return message
}
