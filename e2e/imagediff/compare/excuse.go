package compare

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// Rule allows one kind of difference. Its patterns are those of [path.Match],
// so a star does not cross a slash, except that a lone "*" and a where that
// ends in "/**" cover all that follows.
type Rule struct {
	Part   string // "config", "history", "tree" or "layer"
	Where  string // pattern of Difference.Where
	Field  string // pattern of Difference.Field
	Reason string // why the difference is right; never empty
}

// String returns the rule as a line of a rules file.
func (r Rule) String() string {
	return fmt.Sprintf("%s %s %s # %s", r.Part, r.Where, r.Field, r.Reason)
}

// Excuse splits differences into those that no rule allows and those that one
// does. A rule without a reason, with a broken pattern or that allowed nothing
// is an error: a list of exceptions must not outlive what it excepts.
func Excuse(diffs []Difference, rules []Rule) (rest, excused []Difference, err error) {
	used := make([]bool, len(rules))
	for _, r := range rules {
		if err := r.check(); err != nil {
			return nil, nil, err
		}
	}
	for _, d := range diffs {
		allowed := false
		for i, r := range rules {
			if r.matches(d) {
				used[i], allowed = true, true
			}
		}
		if allowed {
			excused = append(excused, d)
		} else {
			rest = append(rest, d)
		}
	}
	for i, r := range rules {
		if !used[i] {
			return nil, nil, fmt.Errorf("rule %q allowed nothing: remove it", r)
		}
	}
	return rest, excused, nil
}

func (r Rule) check() error {
	if strings.TrimSpace(r.Reason) == "" {
		return fmt.Errorf("rule %q gives no reason", r)
	}
	if _, err := path.Match(r.Where, ""); err != nil {
		return fmt.Errorf("rule %q: %w", r, err)
	}
	if _, err := path.Match(r.Field, ""); err != nil {
		return fmt.Errorf("rule %q: %w", r, err)
	}
	return nil
}

func (r Rule) matches(d Difference) bool {
	return r.Part == d.Part && match(r.Where, d.Where) && match(r.Field, d.Field)
}

func match(pattern, s string) bool {
	if pattern == "*" {
		return true
	}
	if dir, ok := strings.CutSuffix(pattern, "/**"); ok {
		return s == dir || strings.HasPrefix(s, dir+"/")
	}
	ok, err := path.Match(pattern, s)
	return ok && err == nil
}

// ParseRules reads rules, one a line: the part, the where, the field, "#" and
// the reason. Blank lines and lines that begin with "#" are skipped.
func ParseRules(r io.Reader) ([]Rule, error) {
	var rules []Rule
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		what, reason, _ := strings.Cut(line, " #")
		words := strings.Fields(what)
		if len(words) != 3 {
			return nil, fmt.Errorf("line %d: want PART WHERE FIELD # REASON, got %q", n, line)
		}
		rule := Rule{Part: words[0], Where: words[1], Field: words[2], Reason: strings.TrimSpace(reason)}
		if err := rule.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		rules = append(rules, rule)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	return rules, nil
}
