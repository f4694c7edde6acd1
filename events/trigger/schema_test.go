package trigger

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/kilnhook/kiln/events"
)

// schema compiles one of the published schemas.
func schema(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	for _, file := range []string{"kiln.v1.json", "kiln.narrow.v1.json"} {
		data, err := fs.ReadFile(events.Schemas(), file)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource("https://kilnhook.dev/schemas/"+file, doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile("https://kilnhook.dev/schemas/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// check validates every document of a file.
func check(t *testing.T, s *jsonschema.Schema, data []byte) error {
	t.Helper()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var v any
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if v == nil {
			continue
		}
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return err
		}
		if err := s.Validate(doc); err != nil {
			return err
		}
	}
}

// What the parser takes the schema takes, and what either refuses for its
// shape the other refuses too.
func TestSchemaAgreesWithParser(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v %v", files, err)
	}
	s := schema(t, "kiln.v1.json")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(file, data); err != nil {
			t.Errorf("parser: %v", err)
		}
		if err := check(t, s, data); err != nil {
			t.Errorf("%s: schema: %v", file, err)
		}
	}
	const head = "name: a\non: {git: {repo: h/r}}\n"
	for name, in := range map[string]string{
		"unknown field":      head + "pusch: {}",
		"unknown below":      head + "push: {image: x, tag: y}",
		"no name":            "on: {git: {repo: h/r}}",
		"bad name":           "name: a/b\non: {git: {repo: h/r}}",
		"no on":              "name: a",
		"no repo":            "name: a\non: {git: {}}",
		"no bucket":          "name: a\non: {object: {}}",
		"tags without image": head + "push: {tags: [x]}",
		"bad timeout":        head + "run: {timeout: soon}",
		"bad supersede":      head + "run: {supersede: never}",
		"bad priority":       head + "run: {priority: highest}",
		"bad memory":         head + "run: {resources: {memory: lots}}",
		"bad cpu":            head + "run: {resources: {cpu: two}}",
		"bad platform":       head + "build: {platforms: [amd64]}",
		"platform twice":     head + "build: {platforms: [linux/arm64, linux/arm64]}",
		"bad heal":           "name: a\non: {git: {repo: h/r, heal: maybe}}",
		"bad rate":           "name: a\non: [{git: {repo: h/r}}, {base: {rate: fast}}]",
		"unknown source":     "name: a\non: {svn: {}}",
		"text":               "hello",
	} {
		if _, err := Parse("f", []byte(in)); err == nil {
			t.Errorf("%s: the parser takes it", name)
		}
		if err := check(t, s, []byte(in)); err == nil {
			t.Errorf("%s: the schema takes it", name)
		}
	}
}

// The same of narrowing files.
func TestNarrowingSchemaAgreesWithParser(t *testing.T) {
	s := schema(t, "kiln.narrow.v1.json")
	for name, tc := range map[string]struct {
		in string
		ok bool
	}{
		"empty":      {"", true},
		"everything": {"triggers: [app]\nskip: false\nrefs: [main]\npaths: ['src/**']\ntags: ['v*']\ntimeout: 5m\nresources: {cpu: 1, memory: 1Gi}\nplatforms: linux/amd64\n", true},
		"list":       {"- skip: true\n- triggers: [x]\n", true},
		"image":      {"image: evil.io/x", false},
		"args":       {"args: {A: b}", false},
		"skip":       {"skip: perhaps", false},
		"text":       {"hello", false},
	} {
		_, err := ParseNarrowing("f", []byte(tc.in))
		if (err == nil) != tc.ok {
			t.Errorf("%s: parser: %v", name, err)
		}
		if err := check(t, s, []byte(tc.in)); (err == nil) != tc.ok {
			t.Errorf("%s: schema: %v", name, err)
		}
	}
}
