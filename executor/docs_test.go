package main

import (
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Every example in docs/running.md is understood: the YAML is, and the
// arguments of the executor and the warmer are flags that they have.
func TestExamplesInDocs(t *testing.T) {
	raw, err := os.ReadFile("../docs/running.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(raw), -1)
	seen := map[string]int{}
	for _, b := range blocks {
		var doc any
		if err := yaml.Unmarshal([]byte(b[1]), &doc); err != nil {
			t.Errorf("%v in\n%s", err, b[1])
		}
		walkImages(doc, func(image string, args []string) {
			if strings.Contains(image, "/warmer") {
				seen["warmer"]++
				args = append(args, "--help")
				if out, err := exec.CommandContext(t.Context(), "go", append([]string{"run", "./warmer"}, args...)...).CombinedOutput(); err != nil {
					t.Errorf("warmer %q: %v\n%s", args, err, out)
				}
				return
			}
			seen["executor"]++
			var c config
			f := newFlags(&c, io.Discard)
			if err := f.Parse(args); err != nil {
				t.Errorf("executor %q: %v", args, err)
			} else if err := c.check(); err != nil {
				t.Errorf("executor %q: %v", args, err)
			}
		})
	}
	if seen["executor"] != 4 || seen["warmer"] != 1 {
		t.Errorf("examples: %v", seen)
	}
}

// walkImages calls found for every image of ours in a document, with the
// arguments that it is given.
func walkImages(doc any, found func(image string, args []string)) {
	switch v := doc.(type) {
	case []any:
		for _, e := range v {
			walkImages(e, found)
		}
	case map[string]any:
		if args := argumentsIn(v); args != nil {
			for _, key := range []string{"image", "name"} {
				if image := imageName(v[key]); image != "" {
					found(image, args)
					break
				}
			}
		}
		for _, e := range v {
			walkImages(e, found)
		}
	}
}

func imageName(v any) string {
	if m, ok := v.(map[string]any); ok {
		v = m["name"]
	}
	if s, ok := v.(string); ok && strings.Contains(s, "/kiln/") {
		return s
	}
	return ""
}

// argumentsIn are the args of a container, or those of the executor in the
// script of a job.
func argumentsIn(m map[string]any) []string {
	var out []string
	if list, ok := m["args"].([]any); ok {
		for _, a := range list {
			s, _ := a.(string)
			out = append(out, s)
		}
	}
	if list, ok := m["script"].([]any); ok {
		for _, line := range list {
			words := strings.Fields(strings.ReplaceAll(line.(string), `"`, ""))
			if i := slices.Index(words, "/kaniko/executor"); i >= 0 {
				out = words[i+1:]
			}
		}
	}
	return out
}
