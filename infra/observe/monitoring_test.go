package observe

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"
)

// described are the metrics there are, with the names of their labels.
func described(t *testing.T) map[string][]string {
	t.Helper()
	form := regexp.MustCompile(`fqName: "([^"]+)".*constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}`)
	descs := make(chan *prometheus.Desc)
	go func() {
		NewMetrics("v1", func() (int, int) { return 0, 0 }).registry.Describe(descs)
		close(descs)
	}()
	all := map[string][]string{}
	for d := range descs {
		m := form.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("%s", d)
		}
		labels := []string{"job", "instance"} // Prometheus gives these to all
		for _, pair := range strings.Split(m[2], ",") {
			name, _, _ := strings.Cut(pair, "=")
			labels = append(labels, name)
		}
		all[m[1]] = append(all[m[1]], append(labels, strings.Split(m[3], ",")...)...)
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if strings.HasSuffix(m[1], "_seconds") && len(m[3]) > 0 {
				all[m[1]+suffix] = append(all[m[1]], "le")
			}
		}
	}
	return all
}

var (
	// word is a name in PromQL, and what comes after it.
	word = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\(|\{[^}]*\})?`)
	// grouping is a list of labels.
	grouping = regexp.MustCompile(`\b(by|ignoring|on|without|group_left|group_right)\s*\(([^)]*)\)`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(=~|!~|!=|=)`)
	quoted   = regexp.MustCompile(`"[^"]*"`)
	lasting  = regexp.MustCompile(`\[[^\]]*\]`)
)

// expression checks that the metrics and labels of an expression exist, and
// returns how many metrics it names.
func expression(t *testing.T, known map[string][]string, expr string) int {
	t.Helper()
	text := lasting.ReplaceAllString(quoted.ReplaceAllString(expr, `""`), "")
	var labels []string
	for _, g := range grouping.FindAllStringSubmatch(text, -1) {
		for l := range strings.SplitSeq(g[2], ",") {
			if l = strings.TrimSpace(l); l != "" {
				labels = append(labels, l)
			}
		}
	}
	text = grouping.ReplaceAllString(text, "")
	n := 0
	var have []string
	for _, m := range word.FindAllStringSubmatch(text, -1) {
		if m[2] == "(" || slices.Contains([]string{"and", "or", "unless", "bool"}, m[1]) {
			continue
		}
		n++
		of, ok := known[m[1]]
		if !ok {
			t.Errorf("there is no metric %s: %s", m[1], expr)
			continue
		}
		have = append(have, of...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(of, l[1]) {
				t.Errorf("%s has no label %s: %s", m[1], l[1], expr)
			}
		}
	}
	for _, l := range labels {
		if !slices.Contains(have, l) {
			t.Errorf("nothing has the label %s: %s", l, expr)
		}
	}
	return n
}

// TestMonitoring proves that alerts and dashboard are about metrics and labels
// that there are, and that every metric of Kiln is on the dashboard.
func TestMonitoring(t *testing.T) {
	known := described(t)
	var alerts struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	read(t, "monitoring/alerts.yaml", func(b []byte) error { return yaml.UnmarshalStrict(b, &alerts) })
	if len(alerts.Groups) != 1 || len(alerts.Groups[0].Rules) < 8 {
		t.Fatalf("alerts: %+v", alerts)
	}
	for _, r := range alerts.Groups[0].Rules {
		if expression(t, known, r.Expr) == 0 {
			t.Errorf("%s is about nothing", r.Alert)
		}
		if r.Annotations["summary"] == "" || r.Annotations["action"] == "" || r.Labels["severity"] == "" {
			t.Errorf("%s does not say what is wrong, how bad it is and what to do", r.Alert)
		}
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	read(t, "monitoring/dashboard.json", func(b []byte) error { return json.Unmarshal(b, &dashboard) })
	var shown strings.Builder
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			if expression(t, known, target.Expr) == 0 {
				t.Errorf("%s shows nothing", p.Title)
			}
			shown.WriteString(target.Expr + "\n")
		}
	}
	for name := range known {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, "kiln_") && name != "kiln_build_info" && !strings.Contains(shown.String(), base) {
			t.Errorf("%s is on no panel", name)
		}
	}
}

// TestExpression proves that the check finds what is wrong.
func TestExpression(t *testing.T) {
	known := map[string][]string{"kiln_a": {"x"}}
	for _, expr := range []string{"kiln_b", `sum(kiln_a{y="1"})`, "sum by (z) (rate(kiln_a[5m]))"} {
		inner := &testing.T{}
		expression(inner, known, expr)
		if !inner.Failed() {
			t.Errorf("%s is taken for right", expr)
		}
	}
	if n := expression(t, known, `sum by (x) (rate(kiln_a{x=~"kiln_c"}[5m])) > 1 and kiln_a`); n != 2 {
		t.Errorf("it names %d metrics", n)
	}
}

func read(t *testing.T, file string, parse func([]byte) error) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err == nil {
		err = parse(raw)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
