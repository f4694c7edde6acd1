package main

import (
	"fmt"
	"maps"
	"regexp"
	"strings"
)

// A document has, between two marks for each kind of store, a table of targets and a
// table for each workload. They may be of different runs: each says of which.

// beginMark and endMark are the lines of a document between which the tables are
// that were measured in a kind of store.
func beginMark(store string) string { return "<!-- bench " + store + ": begin -->\n" }
func endMark(store string) string   { return "<!-- bench " + store + ": end -->\n" }

// tables are what is between the marks.
type tables struct {
	targets   map[string][]string // lines of the table of targets, by the row of their first column
	workloads map[string]string   // heading, table and notes of each
}

// heading is the first line of a workload's table, with its name.
var heading = regexp.MustCompile(`^\*\*([^:*]+): `)

// targetLine is a line of the table of targets, with the name of its row.
var targetLine = regexp.MustCompile(`^\| ([^|]+) \|`)

// parseTables reads what render has written. What stands before the first heading and is
// no line of a table is not kept.
func parseTables(text string) tables {
	t := tables{map[string][]string{}, map[string]string{}}
	current, column := "", verdictColumns()[0]
	for line := range strings.Lines(text) {
		if m := heading.FindStringSubmatch(line); m != nil {
			current = m[1]
		}
		if current != "" {
			t.workloads[current] += line
		} else if m := targetLine.FindStringSubmatch(line); m != nil && m[1] != column {
			t.targets[m[1]] = append(t.targets[m[1]], line)
		}
	}
	for name, text := range t.workloads {
		t.workloads[name] = strings.TrimSpace(text) + "\n"
	}
	return t
}

// replace puts the rows and tables of others in the place of those with the same names.
func (t tables) replace(others tables) {
	maps.Copy(t.targets, others.targets)
	maps.Copy(t.workloads, others.workloads)
}

// render writes the rows and workloads of an order. What is not in it is what nobody
// measures any more.
func (t tables) render(order []string) string {
	var out strings.Builder
	out.WriteString(markdownHead(verdictColumns()))
	for _, name := range order {
		out.WriteString(strings.Join(t.targets[name], ""))
	}
	for _, name := range order {
		if text := t.workloads[name]; text != "" {
			out.WriteString("\n" + text)
		}
	}
	return out.String()
}

func markdownLine(r row) string { return "| " + strings.Join(r, " | ") + " |\n" }

func markdownHead(r row) string { return markdownLine(r) + "|" + strings.Repeat("---|", len(r)) + "\n" }

// tables are those of what was measured.
func (f *figures) tables() tables {
	t := tables{map[string][]string{}, map[string]string{}}
	for _, v := range f.Targets {
		t.targets[v.Workload] = append(t.targets[v.Workload], markdownLine(append(v.row(), f.Machine.brief())))
	}
	for _, w := range f.list {
		var out strings.Builder
		fmt.Fprintf(&out, "**%s**\n\n%s", f.heading(w), markdownHead(columns()))
		for _, r := range f.rows(w) {
			out.WriteString(markdownLine(r))
		}
		for _, n := range f.notes(w) {
			fmt.Fprintf(&out, "\n%s.\n", n)
		}
		fmt.Fprintf(&out, "\n%s.\n", f.Machine)
		t.workloads[w.name] = out.String()
	}
	return t
}

// names are those of everything that can be measured, in the order of a document.
func (f *figures) names() []string {
	names := append([]string{}, f.order...)
	for _, name := range f.order {
		names = append(names, limitedRow+"/"+name)
	}
	return append(names, startRow)
}

// insert puts what was measured between the marks of a document, in the place of what was
// measured of the same before.
func (f *figures) insert(document string) (string, error) {
	begin, end := beginMark(f.Machine.Store), endMark(f.Machine.Store)
	before, rest, found := strings.Cut(document, begin)
	old, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return "", fmt.Errorf("it lacks the lines %q and %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	t := parseTables(old)
	t.replace(f.tables())
	return before + begin + "\n" + t.render(f.names()) + "\n" + end + after, nil
}
