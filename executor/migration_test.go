package main

import (
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// executorArgs finds the arguments of an executor in a line of shell: what follows its
// path, or the name of its image.
var executorArgs = regexp.MustCompile(`(?:/kaniko/executor|bin/executor|(?:kiln|kaniko-project)/(?:executor|debug):\S+) (.*)$`)

// Every example in docs/migrating-from-kaniko.md is understood, before and after: the
// YAML is, and all arguments are flags that the executor has and that go together.
// Before and after come in pairs, and for each place that kaniko ran in.
func TestMigrationExamples(t *testing.T) {
	raw, err := os.ReadFile("../docs/migrating-from-kaniko.md")
	if err != nil {
		t.Fatal(err)
	}
	parse := func(where string, args []string) {
		t.Helper()
		if len(args) > 0 && args[0] == "doctor" {
			args = args[1:]
		}
		var c config
		f := newFlags(&c, io.Discard)
		if err := f.Parse(args); err != nil {
			t.Errorf("%s: executor %q: %v", where, args, err)
		} else if f.NArg() > 0 {
			t.Errorf("%s: executor %q: %q is no flag", where, args, f.Args())
		} else if err := c.check(); err != nil {
			t.Errorf("%s: executor %q: %v", where, args, err)
		}
	}
	sections := strings.Split(string(raw), "\n## ")
	fence := regexp.MustCompile("(?s)```(\\w+)\n(.*?)```")
	for _, section := range sections {
		title, _, _ := strings.Cut(section, "\n")
		count := map[string]int{}
		for _, block := range fence.FindAllStringSubmatch(section, -1) {
			kind, text := block[1], block[2]
			for image, side := range map[string]string{"gcr.io/kaniko-project/executor": "before", "registry.example.com/kiln/": "after"} {
				if strings.Contains(text, image) {
					count[side]++
				}
			}
			if kind != "yaml" {
				for line := range strings.Lines(text) {
					line = strings.TrimRight(strings.TrimSpace(line), "'")
					if m := executorArgs.FindStringSubmatch(line); m != nil {
						parse(title, words(m[1]))
						count["args"]++
					}
				}
				continue
			}
			var doc any
			if err := yaml.UnmarshalStrict([]byte(text), &doc); err != nil {
				t.Errorf("%s: %v in\n%s", title, err, text)
			}
			walk(doc, func(m map[string]any) {
				for _, args := range argumentsOf(m) {
					parse(title, args)
					count["args"]++
				}
			})
		}
		if title == "Skaffold" { // which writes the flags itself
			count["args"]++
		}
		if section != sections[0] && (count["before"] != 1 || count["after"] != 1 || count["args"] == 0) {
			t.Errorf("%s: %v: want a job before and one after, with arguments", title, count)
		}
	}
	for _, place := range []string{"GitLab CI", "Tekton", "Argo Workflows", "Jenkins", "Google Cloud Build", "Kubernetes pod", "GitHub Actions", "Skaffold", "Docker on a laptop"} {
		if !strings.Contains(string(raw), "\n## "+place) && !strings.Contains(string(raw), "\n## A "+place) {
			t.Errorf("there is nothing about %s", place)
		}
	}
}

// walk calls found for every mapping in a document.
func walk(doc any, found func(map[string]any)) {
	switch v := doc.(type) {
	case []any:
		for _, e := range v {
			walk(e, found)
		}
	case map[string]any:
		found(v)
		for _, e := range v {
			walk(e, found)
		}
	}
}

// argumentsOf are the arguments of executors in a container, a script or a step that
// runs one.
func argumentsOf(m map[string]any) (all [][]string) {
	if list, ok := m["args"].([]any); ok {
		var args []string
		for _, a := range list {
			s, _ := a.(string)
			args = append(args, s)
		}
		all = append(all, args)
	}
	lines, _ := m["script"].([]any)
	if run, ok := m["run"].(string); ok {
		lines = append(lines, run)
	}
	for _, line := range lines {
		s, _ := line.(string)
		if found := executorArgs.FindStringSubmatch(s); found != nil {
			all = append(all, words(found[1]))
		}
	}
	return all
}

// words are those of a line of shell in which nothing in quotes has spaces.
func words(line string) []string { return strings.Fields(strings.ReplaceAll(line, `"`, "")) }
