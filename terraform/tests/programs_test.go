package terraform_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// literals are the strings in the Go files of a directory of Kiln, tests left
// out, with those that are a flag's name: the second argument of a call of
// fs.StringVar and the like.
func literals(t *testing.T, dir string) (all, flags []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", dir, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					all = append(all, s)
				}
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || !strings.HasSuffix(f.Sel.Name, "Var") || len(n.Args) < 2 {
					return true
				}
				if lit, ok := n.Args[1].(*ast.BasicLit); ok {
					if s, err := strconv.Unquote(lit.Value); err == nil {
						flags = append(flags, s)
					}
				}
			}
			return true
		})
	}
	return all, flags
}

// has reports whether one of the strings holds a text.
func has(all []string, text string) bool {
	return slices.ContainsFunc(all, func(s string) bool { return strings.Contains(s, text) })
}

// TestPrograms proves that flags, variables, doors and log lines that the
// modules name are those of the programs of this repository.
func TestPrograms(t *testing.T) {
	t.Parallel()
	w := made(t, "cloud-run-only")
	for _, problem := range programs(t, w) {
		t.Error(problem)
	}
	names := 0
	for _, s := range w.of("cloud_run_v2_service") {
		names += len(s.list("template.0.containers.0.args")) + len(s.list("template.0.containers.0.env"))
	}
	if names < 15 {
		t.Errorf("%d flags and variables only", names)
	}
	lines := 0
	for _, th := range append(w.of("logging_metric"), w.of("monitoring_alert_policy")...) {
		lines += len(logged(th))
	}
	if lines < 3 {
		t.Errorf("%d log lines only", lines)
	}
}

// TestForeignPrograms proves that what the programs do not know is found.
func TestForeignPrograms(t *testing.T) {
	t.Parallel()
	service := func(container map[string]any) thing {
		return thing{Type: "google_cloud_run_v2_service", Values: map[string]any{
			"name": "kiln-x", "template": []any{map[string]any{"containers": []any{container}}},
		}}
	}
	env := func(name, value string) map[string]any {
		return map[string]any{"env": []any{map[string]any{"name": name, "value": value}}}
	}
	for want, th := range map[string]thing{
		"no flag --ledgers=gs://b":      service(map[string]any{"args": []any{"--ledgers=gs://b"}}),
		"no flag --ledger=":             service(map[string]any{"args": []any{"--ledger="}}),
		"do not read KILN_GITHUB_TOKEN": service(env("KILN_GITHUB_TOKEN", "")),
		"no function GitPushed":         service(env("FUNCTION_TARGET", "GitPushed")),
		"does not answer /readyz":       service(map[string]any{"startup_probe": []any{map[string]any{"http_get": []any{map[string]any{"path": "/readyz"}}}}}),
		"no door /v1/dispatch": {Type: "google_pubsub_subscription", Values: map[string]any{
			"push_config": []any{map[string]any{"push_endpoint": "https://kiln-dispatcher-1.region.run.app/v1/dispatch"}},
		}},
		"nobody logs \"build done\"": {Type: "google_logging_metric", Values: map[string]any{"filter": `jsonPayload.msg="build done"`}},
	} {
		if got := programs(t, world{things: []thing{th}}); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}

// programs finds what the programs of this repository do not know.
func programs(t *testing.T, w world) []string {
	t.Helper()
	var p problems
	main, flags := literals(t, "functions/dispatcher")
	doors, _ := literals(t, "functions/dispatch")
	finish, _ := literals(t, "functions/finish")
	functions, _ := literals(t, "functions/gcf")
	serve, _ := literals(t, "functions/gcf/serve")
	for _, s := range w.of("cloud_run_v2_service") {
		for _, arg := range s.list("template.0.containers.0.args") {
			text, _ := arg.(string)
			name, value, _ := strings.Cut(strings.TrimPrefix(text, "--"), "=")
			if value == "" || !slices.Contains(flags, name) {
				p.add("%s: the dispatcher has no flag %s", s.text("name"), text)
			}
		}
		for i := range s.list("template.0.containers.0.env") {
			at := "template.0.containers.0.env." + strconv.Itoa(i)
			switch name, value := s.text(at+".name"), s.text(at+".value"); {
			case name == "FUNCTION_TARGET":
				if !slices.Contains(serve, value) {
					p.add("there is no function %s", value)
				}
			case !slices.Contains(functions, name):
				p.add("%s: the functions do not read %s", s.text("name"), name)
			}
		}
		if path := s.text("template.0.containers.0.startup_probe.0.http_get.0.path"); path != "" && !has(main, path) {
			p.add("the dispatcher does not answer %s", path)
		}
	}
	for _, s := range w.of("pubsub_subscription") {
		if endpoint := s.text("push_config.0.push_endpoint"); strings.Contains(endpoint, "-dispatcher-") {
			if _, path, _ := strings.Cut(endpoint, ".run.app"); path == "" || !slices.Contains(doors, path) {
				p.add("the dispatcher has no door %s", path)
			}
		}
	}
	for _, th := range append(w.of("logging_metric"), w.of("monitoring_alert_policy")...) {
		for _, line := range logged(th) {
			if !slices.Contains(finish, line) && !slices.Contains(doors, line) {
				p.add("%s: nobody logs %q", th.Address, line)
			}
		}
	}
	return p
}

// logged are the log lines that a metric or an alert waits for.
func logged(th thing) []string {
	var lines []string
	for _, m := range regexp.MustCompile(`jsonPayload\.msg="([^"]+)"`).FindAllStringSubmatch(th.text("filter")+th.text("conditions.0.condition_matched_log.0.filter"), -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// TestLedgerPrefixes proves that what the ledger's lifecycle deletes are
// prefixes that there are, and that it deletes all that is not kept for ever.
func TestLedgerPrefixes(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../functions/record/record.go")
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, m := range regexp.MustCompile(`(?m)^//\t([a-z]+/)<`).FindAllStringSubmatch(string(data), -1) {
		if !slices.Contains(known, m[1]) {
			known = append(known, m[1])
		}
	}
	// One of them is written with its meaning: index/<reverse ms>-<id>.
	if len(known) < 7 {
		t.Fatalf("functions/record lists %v only", known)
	}
	kept := []string{"open/", "refs/", "objs/", "tags/", "based/", "bases/", "later/", "rates/", "times/", "heads/", "statuses/", "outcomes/"}
	var want []string
	for _, p := range known {
		if !slices.Contains(kept, p) {
			want = append(want, p)
		}
	}
	slices.Sort(want)
	w := made(t, "cloud-run-only")
	for _, b := range w.of("storage_bucket") {
		if !strings.HasSuffix(b.text("name"), "-ledger") {
			continue
		}
		var got []string
		for _, p := range b.list("lifecycle_rule.0.condition.0.matches_prefix") {
			got = append(got, p.(string))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("the ledger deletes %v, and records that end are %v", got, want)
		}
	}
}
