package compare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Configs compares the configs and histories of two images as the JSON that
// they are, so that members this program has never heard of count too.
func Configs(a, b v1.Image) ([]Difference, error) {
	x, err := readConfig(a)
	if err != nil {
		return nil, fmt.Errorf("image A: %w", err)
	}
	y, err := readConfig(b)
	if err != nil {
		return nil, fmt.Errorf("image B: %w", err)
	}
	hx, hy := takeHistory(x), takeHistory(y)
	normalise(x)
	normalise(y)
	diffs := compareJSON("", "", x, y, partConfig)
	return append(diffs, compareHistory(hx, hy)...), nil
}

func readConfig(img v1.Image) (map[string]any, error) {
	raw, err := img.RawConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var config map[string]any
	if err := dec.Decode(&config); err != nil {
		return nil, fmt.Errorf("parse config: %w", err)
	}
	if config == nil {
		return nil, fmt.Errorf("parse config: it is null, not an object")
	}
	return config, nil
}

// takeHistory removes the history from a config and returns it.
func takeHistory(config map[string]any) []any {
	history, _ := config["history"].([]any)
	delete(config, "history")
	return history
}

// normalise removes what the package comment lists and turns the diff ids into
// their number.
func normalise(config map[string]any) {
	delete(config, "created")
	if rootfs, ok := config["rootfs"].(map[string]any); ok {
		ids, _ := rootfs["diff_ids"].([]any)
		rootfs["diff_ids"] = fmt.Sprintf("%d layers", len(ids))
	}
}

// compareHistory compares entry by entry and member by member. When the
// lengths differ, the entries that one side lacks are shown whole.
func compareHistory(a, b []any) []Difference {
	var diffs []Difference
	for i := range max(len(a), len(b)) {
		var x, y any
		if i < len(a) {
			x = dropCreated(a[i])
		}
		if i < len(b) {
			y = dropCreated(b[i])
		}
		diffs = append(diffs, compareJSON("["+strconv.Itoa(i)+"]", "", x, y, partHistory)...)
	}
	return diffs
}

func dropCreated(entry any) any {
	if m, ok := entry.(map[string]any); ok {
		delete(m, "created")
	}
	return entry
}

// compareJSON compares two decoded values. Objects are compared member by
// member, lists element by element, and all else as text.
func compareJSON(where, field string, a, b any, part string) []Difference {
	ma, aIsMap := a.(map[string]any)
	mb, bIsMap := b.(map[string]any)
	if aIsMap && bIsMap {
		var diffs []Difference
		for _, k := range keys(ma, mb) {
			w, f := where, join(field, k)
			if part == partConfig {
				w, f = join(where, k), ""
			}
			diffs = append(diffs, compareJSON(w, f, ma[k], mb[k], part)...)
		}
		return diffs
	}
	la, aIsList := a.([]any)
	lb, bIsList := b.([]any)
	if aIsList && bIsList && len(la) == len(lb) {
		var diffs []Difference
		for i := range la {
			index := "[" + strconv.Itoa(i) + "]"
			diffs = append(diffs, compareJSON(where+index, field, la[i], lb[i], part)...)
		}
		return diffs
	}
	sa, sb := text(a), text(b)
	if sa == sb {
		return nil
	}
	return []Difference{{Part: part, Where: where, Field: field, A: sa, B: sb}}
}

func keys(a, b map[string]any) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

func join(where, key string) string {
	if where == "" {
		return key
	}
	return where + "." + key
}

// text returns a value as JSON, whose encoder sorts the members of objects.
// What is null counts as absent.
func text(v any) string {
	if v == nil {
		return absent
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprintf("%v", v)
	}
	return string(bytes.TrimSpace(out.Bytes()))
}
