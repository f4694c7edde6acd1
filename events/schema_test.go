package events_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/kilnhook/kiln/events"
)

// compiler knows every schema of the package by its $id.
func compiler(t *testing.T) *jsonschema.Compiler {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	names, err := fs.Glob(events.Schemas(), "*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("schemas %v: %v", names, err)
	}
	for _, name := range names {
		data, err := fs.ReadFile(events.Schemas(), name)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := c.AddResource("https://kilnhook.dev/schemas/"+name, doc); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return c
}

func validate(t *testing.T, schema string, data []byte) error {
	t.Helper()
	s, err := compiler(t).Compile("https://kilnhook.dev/schemas/" + schema)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

// The data of every event we send validates against the schema it names, and
// there is a schema for every type.
func TestEventsValidate(t *testing.T) {
	covered := map[string]bool{}
	for name, e := range goldenEvents(t) {
		if e.DataSchema() != "https://kilnhook.dev/schemas/"+events.SchemaName(e.Type()) {
			t.Errorf("%s: dataschema %s", name, e.DataSchema())
		}
		if err := validate(t, events.SchemaName(e.Type()), e.Data()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		covered[e.Type()] = true
	}
	for _, typ := range events.Types() {
		if !covered[typ] {
			t.Errorf("no golden event of type %s", typ)
		}
	}
}

// Stored records validate too.
func TestRecordsValidate(t *testing.T) {
	for schema, v := range map[string]any{
		"request.v1.json":        gitRequest(),
		"result.v1.json":         successResult(),
		"source.changed.v1.json": objectChange(),
		"progress.v1.json":       events.Progress{Time: at("2026-11-23T07:39:00Z"), Kind: events.ProgressStep, ID: "2.3", Phase: "run", State: events.StepCached},
	} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, schema, data); err != nil {
			t.Errorf("%s: %v", schema, err)
		}
	}
	failed, err := json.Marshal(failedResult())
	if err != nil {
		t.Fatal(err)
	}
	if err := validate(t, "result.v1.json", failed); err != nil {
		t.Error(err)
	}
}

// The schemas refuse what they should: without this they could say nothing.
func TestSchemasRefuse(t *testing.T) {
	success, err := json.Marshal(events.NewFinished(gitRequest(), successResult(), nil))
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) []byte {
		if !bytes.Contains(success, []byte(old)) {
			t.Fatalf("%s is not in %s", old, success)
		}
		return bytes.Replace(success, []byte(old), []byte(new), 1)
	}
	for name, tc := range map[string]struct {
		schema string
		data   []byte
	}{
		"unknown outcome":    {"build.finished.v1.json", edit(`"outcome":"success"`, `"outcome":"great"`)},
		"class on success":   {"build.finished.v1.json", edit(`"class":""`, `"class":"oom"`)},
		"digest on failure":  {"build.finished.v1.json", edit(`"outcome":"success"`, `"outcome":"failed"`)},
		"bad digest":         {"build.finished.v1.json", edit(digestX, "sha256:abc")},
		"bad time":           {"build.finished.v1.json", edit(`"2026-11-23T07:41:02.11Z"`, `"yesterday"`)},
		"bad build id":       {"build.finished.v1.json", edit("b4fqlqs6nuner3bfunf5738b7r", "../../etc")},
		"git without after":  {"source.changed.v1.json", []byte(`{"kind":"git","location":"h/r","name":"refs/heads/main","before":"` + zeros + `"}`)},
		"object without gen": {"source.changed.v1.json", []byte(`{"kind":"object","location":"gs://b","name":"n"}`)},
		"short ref":          {"source.changed.v1.json", []byte(`{"kind":"git","location":"h/r","name":"main","before":"` + zeros + `","after":"` + commitA + `"}`)},
		"negative timeout":   {"request.v1.json", []byte(`{"timeoutSeconds":-1}`)},
		"empty rejection":    {"trigger.rejected.v1.json", []byte(`{}`)},
		"long message":       {"result.v1.json", []byte(`{"outcome":"failed","message":"` + strings.Repeat("x", 2049) + `"}`)},
	} {
		if err := validate(t, tc.schema, tc.data); err == nil {
			t.Errorf("%s: %s was accepted: %s", name, tc.schema, tc.data)
		}
	}
}

// A reader of an older version must accept what a newer one adds.
func TestSchemasAllowUnknownFields(t *testing.T) {
	for _, e := range goldenEvents(t) {
		var v map[string]any
		if err := json.Unmarshal(e.Data(), &v); err != nil {
			t.Fatal(err)
		}
		v["somethingNew"] = map[string]any{"a": 1}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, events.SchemaName(e.Type()), data); err != nil {
			t.Error(err)
		}
	}
}

// Every JSON name our structs write is described by a schema.
func TestSchemasDescribeEveryField(t *testing.T) {
	for schema, v := range map[string]any{
		"source.changed.v1.json":   events.Change{},
		"result.v1.json":           events.Result{},
		"progress.v1.json":         events.Progress{},
		"build.finished.v1.json":   events.Finished{},
		"build.requested.v1.json":  events.Lifecycle{},
		"trigger.rejected.v1.json": events.Rejected{},
	} {
		checkFields(t, properties(t, schema, ""), reflect.TypeOf(v), schema)
	}
	for def, v := range map[string]any{
		"build": events.BuildInfo{}, "source": events.SourceInfo{}, "image": events.ImageInfo{},
		"platform": events.PlatformInfo{}, "layer": events.LayerInfo{}, "base": events.BaseInfo{},
	} {
		checkFields(t, properties(t, "common.v1.json", def), reflect.TypeOf(v), "common.v1.json "+def)
	}
	// A Request writes itself, so its names are taken from a filled one.
	var req events.Request
	fill(reflect.ValueOf(&req).Elem(), 1)
	data, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	var names map[string]any
	if err := json.Unmarshal(data, &names); err != nil {
		t.Fatal(err)
	}
	known := properties(t, "request.v1.json", "")
	for name := range names {
		if _, ok := known[name]; !ok {
			t.Errorf("request.v1.json does not describe %s", name)
		}
	}
}

// properties are those of a schema file, or of one of its definitions.
func properties(t *testing.T, name, def string) map[string]any {
	t.Helper()
	data, err := fs.ReadFile(events.Schemas(), name)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if def != "" {
		doc = doc["$defs"].(map[string]any)[def].(map[string]any)
	}
	return doc["properties"].(map[string]any)
}

func checkFields(t *testing.T, known map[string]any, typ reflect.Type, where string) {
	t.Helper()
	if typ == reflect.TypeFor[time.Time]() {
		return
	}
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		if _, ok := known[name]; !ok {
			t.Errorf("%s does not describe %s.%s (%q)", where, typ.Name(), typ.Field(i).Name, name)
		}
	}
}
