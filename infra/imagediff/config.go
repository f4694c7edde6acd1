package imagediff

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Setting is a part of the configuration that differs. Values are JSON, or text of
// variables and labels; "" is none.
type Setting struct {
	Name string `json:"name"` // "Env PATH", "Label version", "Cmd", "platform"
	Was  string `json:"was"`
	Is   string `json:"is"`
}

// settings compares what a container gets of two configurations: not when they were
// made, nor how.
func settings(was, is *v1.ConfigFile) ([]Setting, error) {
	a, err := flat(was)
	if err != nil {
		return nil, err
	}
	b, err := flat(is)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	out := []Setting{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if a[name] != b[name] {
			out = append(out, Setting{name, a[name], b[name]})
		}
	}
	return out, nil
}

func flat(c *v1.ConfigFile) (map[string]string, error) {
	out := map[string]string{"platform": c.OS + "/" + strings.TrimSuffix(c.Architecture+"/"+c.Variant, "/")}
	for _, kv := range c.Config.Env {
		name, value, _ := strings.Cut(kv, "=")
		out["Env "+name] = value
	}
	for name, value := range c.Config.Labels {
		out["Label "+name] = value
	}
	raw, err := json.Marshal(c.Config)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	for name, value := range fields {
		if name != "Env" && name != "Labels" && string(value) != "null" && string(value) != `""` && string(value) != "{}" {
			out[name] = string(value)
		}
	}
	return out, nil
}
