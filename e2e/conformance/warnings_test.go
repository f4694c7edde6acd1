package conformance

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
)

// compareWarnings compares what two builders find amiss: the lines
// "Dockerfile:3: Rule: message", in any order.
func compareWarnings(a, b []string) []compare.Difference {
	var diffs []compare.Difference
	for _, side := range [][2][]string{{a, b}, {b, a}} {
		for _, w := range side[0] {
			if slices.Contains(side[1], w) {
				continue
			}
			where, rest, _ := strings.Cut(w, ": ")
			rule, message, _ := strings.Cut(rest, ": ")
			d := compare.Difference{Part: "warning", Where: where, Field: rule, A: message, B: "absent"}
			if !slices.Contains(a, w) {
				d.A, d.B = d.B, d.A
			}
			diffs = append(diffs, d)
		}
	}
	return diffs
}

// sortedWarnings returns warnings by line.
func sortedWarnings(warnings []string) []string {
	return slices.SortedStableFunc(slices.Values(warnings), func(x, y string) int {
		return cmp.Or(cmp.Compare(line(x), line(y)), cmp.Compare(x, y))
	})
}

func line(warning string) int {
	where, _, _ := strings.Cut(warning, ": ")
	_, number, _ := strings.Cut(where, ":")
	n, err := strconv.Atoi(number)
	if err != nil {
		return 0
	}
	return n
}
