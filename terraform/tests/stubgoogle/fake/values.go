package fake

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// values are the attributes of one resource: strings, bools, numbers as
// strings, lists and maps. What is null or not known yet is missing.
type values map[string]any

// read makes values of an object.
func read(v tftypes.Value) (values, error) {
	x, err := plain(v)
	if err != nil {
		return nil, err
	}
	m, _ := x.(map[string]any)
	return m, nil
}

func plain(v tftypes.Value) (any, error) {
	if v.IsNull() || !v.IsKnown() {
		return nil, nil
	}
	t := v.Type()
	switch {
	case t.Is(tftypes.String):
		var s string
		err := v.As(&s)
		return s, err
	case t.Is(tftypes.Bool):
		var b bool
		err := v.As(&b)
		return b, err
	case t.Is(tftypes.Number):
		n := new(big.Float)
		if err := v.As(&n); err != nil {
			return nil, err
		}
		return n.Text('f', -1), nil
	case t.Is(tftypes.List{}), t.Is(tftypes.Set{}), t.Is(tftypes.Tuple{}):
		var elems []tftypes.Value
		if err := v.As(&elems); err != nil {
			return nil, err
		}
		list := make([]any, len(elems))
		for i, e := range elems {
			x, err := plain(e)
			if err != nil {
				return nil, err
			}
			list[i] = x
		}
		return list, nil
	}
	var attrs map[string]tftypes.Value
	if err := v.As(&attrs); err != nil {
		return nil, fmt.Errorf("read %s: %w", t, err)
	}
	m := map[string]any{}
	for name, a := range attrs {
		x, err := plain(a)
		if err != nil {
			return nil, err
		}
		if x != nil {
			m[name] = x
		}
	}
	return m, nil
}

// At follows a path such as "push_config.0.push_endpoint" in the values of a resource; nil if it
// leads nowhere.
func At(values map[string]any, path string) any {
	var x any = values
	for step := range strings.SplitSeq(path, ".") {
		switch c := x.(type) {
		case map[string]any:
			x = c[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(c) {
				return nil
			}
			x = c[i]
		default:
			return nil
		}
	}
	return x
}

func (v values) at(path string) any { return At(v, path) }

// text is the string at a path, empty if there is none.
func (v values) text(path string) string {
	s, _ := v.at(path).(string)
	return s
}

// list is the list at a path, nil if there is none.
func (v values) list(path string) []any {
	l, _ := v.at(path).([]any)
	return l
}

// expand replaces {attribute} by its value.
func (v values) expand(template string) string {
	for name, x := range v {
		if s, ok := x.(string); ok {
			template = strings.ReplaceAll(template, "{"+name+"}", s)
		}
	}
	return template
}
