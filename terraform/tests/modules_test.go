package terraform_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/terraform/tests/stubgoogle/fake"
)

// TestFormat checks the form of every file, and that the check can fail.
func TestFormat(t *testing.T) {
	t.Parallel()
	tr := grow(t)
	if out, err := tr.run(".", "fmt", "-check", "-recursive", "-no-color"); err != nil {
		t.Errorf("not formatted; run terraform fmt -recursive:\n%s", out)
	}
	tr.change("modules/services/main.tf", "  disable_on_destroy = false", "    disable_on_destroy = false")
	if out, err := tr.run(".", "fmt", "-check", "-recursive", "-no-color"); err == nil || !said(out, "modules/services/main.tf") {
		t.Errorf("a badly formatted file is not found:\n%s", out)
	}
}

// modules are the directories of modules.
func modules(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("../modules/*")
	if err != nil || len(dirs) != 11 {
		t.Fatalf("%d modules: %v", len(dirs), err)
	}
	for i, dir := range dirs {
		dirs[i] = strings.TrimPrefix(dir, "../")
	}
	return dirs
}

// TestModules validates every module alone, as somebody who takes just that one.
func TestModules(t *testing.T) {
	t.Parallel()
	tr := grow(t)
	for _, dir := range modules(t) {
		tr.init(dir)
		tr.must(dir, "validate", "-no-color")
	}
}

// passed is the last line of terraform test.
var passed = regexp.MustCompile(`Success! (\d+) passed, 0 failed`)

// TestPlanModule runs the tests of the module plan, which needs no provider, and
// proves for each of its guards that without it they fail.
func TestPlanModule(t *testing.T) {
	t.Parallel()
	tr := grow(t)
	const dir = "modules/plan"
	tr.init(dir)
	if out := tr.must(dir, "test", "-no-color"); !passed.MatchString(out) {
		t.Fatal(out)
	}
	for name, m := range map[string]mutation{
		"ledger_is_the_watched_bucket": {file: "outputs.tf", old: "local.names.ledger != local.names.contexts", text: `local.names.ledger != ""`},
		"output_is_the_watched_bucket": {file: "outputs.tf", old: "!contains(var.output_buckets, local.names.contexts)", text: `!contains(var.output_buckets, "")`},
		"bucket_name_over_63":          {file: "main.tf", old: "_-]{1,61}[a-z0-9]$\" }],\n    [for n in local.names.accounts", text: "_-]{1,99}[a-z0-9]$\" }],\n    [for n in local.names.accounts"},
		"region_is_a_zone":             {file: "variables.tf", old: "[1-9][0-9]?$\", var.region))", text: "[1-9][0-9]?\", var.region))"},
		"messages_kept_too_long":       {file: "variables.tf", old: "var.retention.messages_seconds <= 604800", text: "var.retention.messages_seconds <= 9604800"},
	} {
		t.Run(name, func(t *testing.T) {
			other := grow(t)
			other.change(filepath.Join(dir, m.file), m.old, m.text)
			other.init(dir)
			out, err := other.run(dir, "test", "-no-color", "-filter=tests/refused.tftest.hcl")
			if err == nil || !said(out, `run "`+name+`"... fail`) {
				t.Errorf("the guard can be taken away: %v\n%s", err, out)
			}
		})
	}
}

// TestForTheRealProvider checks that the tests which CI elsewhere runs with
// Google's provider are well formed: with mock values they pass against the
// stand-in as well, which says nothing about Google's schema.
func TestForTheRealProvider(t *testing.T) {
	t.Parallel()
	tr := grow(t)
	tr.init(".")
	out := tr.must(".", "init", "-input=false", "-backend=false", "-no-color", "-test-directory=tests/google-provider")
	out += tr.must(".", "test", "-no-color", "-test-directory=tests/google-provider")
	if !passed.MatchString(out) {
		t.Error(out)
	}
}

// TestReferences checks that what modules and documents name is there.
func TestReferences(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)[^):]*\)`)
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../examples/*/*.md", "../modules/*/*.md", "*/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range link.FindAllStringSubmatch(string(data), -1) {
				if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
					t.Errorf("%s links to %s: %v", file, m[1], err)
				}
			}
		}
	}
}

// TestTypes proves that the stand-in knows exactly the types that the modules
// use: one more would be a schema that nothing checks.
func TestTypes(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^(resource|data) "(google_[a-z0-9_]+)" `)
	for _, name := range tracked(t) {
		data, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range declared.FindAllStringSubmatch(string(data), -1) {
			used[m[1]+" "+m[2]] = true
		}
	}
	resources, data := fake.Types()
	known := map[string]bool{}
	for _, name := range resources {
		known["resource "+name] = true
	}
	for _, name := range data {
		known["data "+name] = true
	}
	for name := range used {
		if !known[name] {
			t.Errorf("the stand-in does not know %s", name)
		}
	}
	for name := range known {
		if !used[name] {
			t.Errorf("nothing uses %s", name)
		}
	}
}
