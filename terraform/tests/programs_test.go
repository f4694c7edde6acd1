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
	_, flags := literals(t, "functions/dispatcher")
	doors, _ := literals(t, "functions/dispatch")
	main, _ := literals(t, "functions/dispatcher")
	functions, _ := literals(t, "functions/gcf")
	serve, _ := literals(t, "functions/gcf/serve")
	checked := 0
	for _, s := range w.of("cloud_run_v2_service") {
		c := thing{Values: s.list("template.0.containers")[0].(map[string]any)}
		for _, arg := range c.list("args") {
			name, value, ok := strings.Cut(strings.TrimPrefix(arg.(string), "--"), "=")
			if !ok || value == "" || !slices.Contains(flags, name) {
				t.Errorf("%s: the dispatcher has no flag %s", s.text("name"), arg)
			}
			checked++
		}
		for i := range c.list("env") {
			checked++
			name, value := c.text("env."+strconv.Itoa(i)+".name"), c.text("env."+strconv.Itoa(i)+".value")
			if name == "FUNCTION_TARGET" {
				if !has(serve, value) {
					t.Errorf("there is no function %s", value)
				}
				continue
			}
			if !has(functions, name) {
				t.Errorf("%s: the functions do not read %s", s.text("name"), name)
			}
		}
		if path := c.text("startup_probe.0.http_get.0.path"); path != "" && !has(main, path) {
			t.Errorf("the dispatcher does not answer %s", path)
		}
	}
	if checked < 15 {
		t.Errorf("%d flags and variables only", checked)
	}
	for _, s := range w.of("pubsub_subscription") {
		if endpoint := s.text("push_config.0.push_endpoint"); strings.Contains(endpoint, "-dispatcher-") {
			if _, path, _ := strings.Cut(endpoint, ".run.app"); !has(doors, path) || path == "" {
				t.Errorf("the dispatcher has no door %s", path)
			}
		}
	}
	logs, _ := literals(t, "functions/finish")
	logs = append(logs, doors...)
	message := regexp.MustCompile(`jsonPayload\.msg="([^"]+)"`)
	n := 0
	for _, th := range append(w.of("logging_metric"), w.of("monitoring_alert_policy")...) {
		for _, m := range message.FindAllStringSubmatch(th.text("filter")+th.text("conditions.0.condition_matched_log.0.filter"), -1) {
			n++
			if !slices.Contains(logs, m[1]) {
				t.Errorf("%s: nobody logs %q", th.Address, m[1])
			}
		}
	}
	if n < 3 {
		t.Errorf("%d log lines only", n)
	}
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
	kept := []string{"open/", "refs/", "objs/", "tags/"}
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
