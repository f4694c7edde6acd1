package trigger

import "strings"

// glob reports whether name matches pattern: "*" stands for any run of
// characters without "/", "**" for any run at all, everything else for itself.
// Only the last star of each kind is ever tried again, since it can swallow
// whatever an earlier one could, so no pattern takes exponential time.
func glob(pattern, name string) bool {
	// Positions to go back to when what follows a star does not fit: the single
	// star met last, and the double star met last, each with how much of name
	// it has swallowed so far.
	type retry struct{ pattern, name int }
	star, double := retry{-1, 0}, retry{-1, 0}
	p, n := 0, 0
	for n < len(name) {
		switch {
		case strings.HasPrefix(pattern[p:], "**"):
			p += 2
			double, star = retry{p, n}, retry{-1, 0}
		case p < len(pattern) && pattern[p] == '*':
			p++
			star = retry{p, n}
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star.pattern >= 0 && name[star.name] != '/':
			star.name++
			p, n = star.pattern, star.name
		case double.pattern >= 0:
			double.name++
			p, n = double.pattern, double.name
			star = retry{-1, 0}
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
