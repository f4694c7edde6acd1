package fake

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// described is the part of a validator that nobody reads.
type described struct{}

func (described) Description(context.Context) string         { return "" }
func (described) MarkdownDescription(context.Context) string { return "" }

// count limits how often a block occurs.
type count struct{ min, max int }

func (count) Description(context.Context) string         { return "" }
func (count) MarkdownDescription(context.Context) string { return "" }

// ValidateList implements validator.List.
func (c count) ValidateList(_ context.Context, r validator.ListRequest, w *validator.ListResponse) {
	if !r.ConfigValue.IsUnknown() {
		if err := c.check(len(r.ConfigValue.Elements())); err != nil {
			w.Diagnostics.AddAttributeError(r.Path, "Wrong number of blocks", err.Error())
		}
	}
}

// ValidateSet implements validator.Set.
func (c count) ValidateSet(_ context.Context, r validator.SetRequest, w *validator.SetResponse) {
	if !r.ConfigValue.IsUnknown() {
		if err := c.check(len(r.ConfigValue.Elements())); err != nil {
			w.Diagnostics.AddAttributeError(r.Path, "Wrong number of blocks", err.Error())
		}
	}
}

func (c count) check(n int) error {
	switch {
	case n < c.min:
		return fmt.Errorf("there are %d blocks, and at least %d must be", n, c.min)
	case c.max > 0 && n > c.max:
		return fmt.Errorf("there are %d blocks, and at most %d may be", n, c.max)
	}
	return nil
}

// form says what a text may be.
type form struct {
	described
	oneOf []string
	match string
}

// ValidateString implements validator.String.
func (f form) ValidateString(_ context.Context, r validator.StringRequest, w *validator.StringResponse) {
	if r.ConfigValue.IsNull() || r.ConfigValue.IsUnknown() {
		return
	}
	value := r.ConfigValue.ValueString()
	if len(f.oneOf) > 0 && !slices.Contains(f.oneOf, value) {
		w.Diagnostics.AddAttributeError(r.Path, "Value not allowed", fmt.Sprintf("%q is none of %s", value, strings.Join(f.oneOf, ", ")))
	}
	if f.match != "" && !regexp.MustCompile(f.match).MatchString(value) {
		w.Diagnostics.AddAttributeError(r.Path, "Value not allowed", fmt.Sprintf("%q is not of the form %s", value, f.match))
	}
}

// limits says what a number may be.
type limits struct{ min, max int64 }

func (limits) Description(context.Context) string         { return "" }
func (limits) MarkdownDescription(context.Context) string { return "" }

// ValidateInt64 implements validator.Int64.
func (l limits) ValidateInt64(_ context.Context, r validator.Int64Request, w *validator.Int64Response) {
	if r.ConfigValue.IsNull() || r.ConfigValue.IsUnknown() || l == (limits{}) {
		return
	}
	if n := r.ConfigValue.ValueInt64(); n < l.min || n > l.max {
		w.Diagnostics.AddAttributeError(r.Path, "Value not allowed", fmt.Sprintf("%d is not from %d to %d", n, l.min, l.max))
	}
}

// labelForm checks the labels that Google's services take.
type labelForm struct{ described }

// ValidateMap implements validator.Map.
func (labelForm) ValidateMap(_ context.Context, r validator.MapRequest, w *validator.MapResponse) {
	key := regexp.MustCompile(`^[\p{Ll}\p{Lo}][\p{Ll}\p{Lo}\p{N}_-]{0,62}$`)
	val := regexp.MustCompile(labelValue)
	for k, v := range r.ConfigValue.Elements() {
		s, ok := v.(types.String)
		if !key.MatchString(k) || ok && !s.IsUnknown() && !val.MatchString(s.ValueString()) {
			w.Diagnostics.AddAttributeError(r.Path, "Label not allowed", fmt.Sprintf("%s = %s", k, v))
		}
	}
}
