package fake

import (
	dsschema "github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/defaults"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// schema is the schema of a resource as the framework wants it.
func (s spec) schema() schema.Schema {
	attrs, blocks := s.body.schema()
	attrs["id"] = schema.StringAttribute{Computed: true}
	return schema.Schema{Attributes: attrs, Blocks: blocks}
}

func (b body) schema() (map[string]schema.Attribute, map[string]schema.Block) {
	attrs, blocks := map[string]schema.Attribute{}, map[string]schema.Block{}
	for _, f := range b.attrs {
		attrs[f.name] = f.schema()
	}
	for _, k := range b.blocks {
		inner, nested := k.body.schema()
		object := schema.NestedBlockObject{Attributes: inner, Blocks: nested}
		if k.set {
			blocks[k.name] = schema.SetNestedBlock{NestedObject: object, Validators: []validator.Set{count{k.min, k.max}}}
		} else {
			blocks[k.name] = schema.ListNestedBlock{NestedObject: object, Validators: []validator.List{count{k.min, k.max}}}
		}
	}
	return attrs, blocks
}

// schema is the schema of one attribute. A default makes it computed as well,
// which the framework demands.
func (f field) schema() schema.Attribute {
	required, optional := f.mode == required, f.mode == optional || f.mode == optionalComputed
	computed := f.mode == computed || f.mode == optionalComputed || f.standard != nil
	switch f.typ {
	case texts:
		return schema.ListAttribute{ElementType: types.StringType, Required: required, Optional: optional, Computed: computed}
	case bag:
		return schema.SetAttribute{ElementType: types.StringType, Required: required, Optional: optional, Computed: computed}
	case labels:
		a := schema.MapAttribute{ElementType: types.StringType, Required: required, Optional: optional, Computed: computed}
		if f.match != "" {
			a.Validators = []validator.Map{labelForm{}}
		}
		return a
	case flag:
		return schema.BoolAttribute{Required: required, Optional: optional, Computed: computed, Default: boolDefault(f.standard)}
	case number:
		return schema.Int64Attribute{
			Required: required, Optional: optional, Computed: computed, Default: intDefault(f.standard),
			Validators: []validator.Int64{limits{f.min, f.max}},
		}
	case float:
		return schema.Float64Attribute{Required: required, Optional: optional, Computed: computed}
	}
	return schema.StringAttribute{
		Required: required, Optional: optional, Computed: computed, Default: textDefault(f.standard),
		Validators: []validator.String{form{oneOf: f.oneOf, match: f.match}},
	}
}

func boolDefault(v any) defaults.Bool {
	if b, ok := v.(bool); ok {
		return booldefault.StaticBool(b)
	}
	return nil
}

func intDefault(v any) defaults.Int64 {
	if n, ok := v.(int); ok {
		return int64default.StaticInt64(int64(n))
	}
	return nil
}

func textDefault(v any) defaults.String {
	if s, ok := v.(string); ok {
		return stringdefault.StaticString(s)
	}
	return nil
}

// dataSchema is the schema of a data type, whose attributes are all texts.
func (s spec) dataSchema() dsschema.Schema {
	attrs := map[string]dsschema.Attribute{"id": dsschema.StringAttribute{Computed: true}}
	for _, f := range s.body.attrs {
		attrs[f.name] = f.dataSchema()
	}
	return dsschema.Schema{Attributes: attrs}
}

func (f field) dataSchema() dsschema.Attribute {
	return dsschema.StringAttribute{
		Required: f.mode == required,
		Optional: f.mode == optional || f.mode == optionalComputed,
		Computed: f.mode == computed || f.mode == optionalComputed,
	}
}
