package trigger

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/kilnhook/kiln/events"
)

// yes reads true or false.
func (p *parser) yes(n *yaml.Node, field string) bool {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		p.fail(n, "%s is neither true nor false", field)
		return false
	}
	return strings.EqualFold(n.Value, "true")
}

// duration reads a time of at most maxTimeout.
func (p *parser) duration(n *yaml.Node, field string) time.Duration {
	text := p.text(n, field)
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > maxTimeout {
		p.fail(n, "%s %q is not a time such as 30m or 1h30m, at most %s", field, text, maxTimeout)
	}
	return d
}

// globs reads patterns of files.
func (p *parser) globs(n *yaml.Node, field string) []string {
	list := p.texts(n, field)
	for _, s := range list {
		pattern := strings.TrimPrefix(s, "!")
		if pattern == "" || strings.HasPrefix(pattern, "/") || slices.Contains(strings.Split(pattern, "/"), "..") {
			p.fail(n, "%s: %q is not a pattern of paths below the repository, such as services/app/**", field, s)
		}
	}
	if len(list) > 0 && !slices.ContainsFunc(list, func(s string) bool { return !strings.HasPrefix(s, "!") }) {
		p.fail(n, "%s has only patterns after '!', which match nothing: begin with \"**\"", field)
	}
	return list
}

// patterns reads a mapping of names to patterns.
func (p *parser) patterns(n *yaml.Node, field string) map[string]string {
	m := map[string]string{}
	p.each(n, field, func(key, value *yaml.Node) { m[strings.ToLower(key.Value)] = p.text(value, field+"."+key.Value) })
	return m
}

// maxPlatforms is how many platforms a build may have.
const maxPlatforms = 16

// platforms reads the platforms of a build, and returns them in ascending order.
func (p *parser) platforms(n *yaml.Node, field string) []string {
	list := p.texts(n, field)
	for _, s := range list {
		if !events.IsPlatform(s) {
			p.fail(n, "%s: %q is not a platform such as linux/arm64 or linux/arm/v7", field, s)
		}
	}
	if len(list) > maxPlatforms {
		p.fail(n, "%s has %d platforms, more than %d", field, len(list), maxPlatforms)
	}
	list = slices.Sorted(slices.Values(list))
	for i := 1; i < len(list); i++ {
		if list[i] == list[i-1] {
			p.fail(n, "%s has %s twice", field, list[i])
		}
	}
	return list
}

// resources reads what a build needs.
func (p *parser) resources(n *yaml.Node, where string) events.Resources {
	var r events.Resources
	read := func(name string, parse func(string) (int64, error), into *int64) func(*yaml.Node) {
		return func(n *yaml.Node) {
			text := p.text(n, where+"."+name)
			v, err := parse(text)
			if err != nil {
				p.fail(n, "%s.%s: %v", where, name, err)
			}
			*into = v
		}
	}
	p.fields(n, where, []field{
		{"cpu", read("cpu", parseCPU, &r.CPUMillis)},
		{"memory", read("memory", ParseBytes, &r.Memory)},
		{"disk", read("disk", ParseBytes, &r.Disk)},
	})
	return r
}

// parseCPU reads a number of CPUs in the spelling of Kubernetes, "2", "0.5" or
// "500m", as thousandths.
func parseCPU(s string) (int64, error) {
	digits, milli := strings.CutSuffix(s, "m")
	v, err := strconv.ParseFloat(digits, 64)
	if !milli {
		v *= 1000
	}
	if err != nil || !(v >= 1 && v <= 1e6) || v != float64(int64(v)) {
		return 0, fmt.Errorf("%q is not a number of CPUs such as 2, 0.5 or 500m", s)
	}
	return int64(v), nil
}

// ParseBytes reads a size in the spelling of Kubernetes: "4Gi", "500M", "1024".
func ParseBytes(s string) (int64, error) {
	unit := int64(1)
	digits := s
	for _, u := range []struct {
		suffix string
		size   int64
	}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}} {
		if d, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, unit = d, u.size
			break
		}
	}
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(v > 0) || v*float64(unit) > 1<<50 || v*float64(unit) < 1 {
		return 0, fmt.Errorf("%q is not a size such as 4Gi or 500M", s)
	}
	return int64(v * float64(unit)), nil
}

// report reads who is told.
func (p *parser) report(n *yaml.Node, r *Report) {
	p.fields(n, "report", []field{
		{"status", func(n *yaml.Node) { r.Status = p.yes(n, "report.status") }},
		{"notify", func(n *yaml.Node) {
			r.Notify = p.texts(n, "report.notify")
			for _, name := range r.Notify {
				if name == "" || strings.Trim(strings.ToLower(name), lowerDigits+"-_.") != "" {
					p.fail(n, "report.notify: %q is not the name of a notification", name)
				}
			}
		}},
	})
}
