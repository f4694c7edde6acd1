package fake

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// object is a resource of any spec.
type object struct {
	spec  spec
	cloud *cloud
}

var (
	_ resource.ResourceWithConfigure      = (*object)(nil)
	_ resource.ResourceWithValidateConfig = (*object)(nil)
	_ datasource.DataSourceWithConfigure  = (*data)(nil)
)

// Metadata implements resource.Resource.
func (o *object) Metadata(_ context.Context, _ resource.MetadataRequest, w *resource.MetadataResponse) {
	w.TypeName = o.spec.name
}

// Schema implements resource.Resource.
func (o *object) Schema(_ context.Context, _ resource.SchemaRequest, w *resource.SchemaResponse) {
	w.Schema = o.spec.schema()
}

// Configure implements resource.ResourceWithConfigure.
func (o *object) Configure(_ context.Context, r resource.ConfigureRequest, _ *resource.ConfigureResponse) {
	o.cloud, _ = r.ProviderData.(*cloud)
}

// ValidateConfig implements resource.ResourceWithValidateConfig.
func (o *object) ValidateConfig(_ context.Context, r resource.ValidateConfigRequest, w *resource.ValidateConfigResponse) {
	if o.spec.check == nil {
		return
	}
	v, err := read(r.Config.Raw)
	if err == nil {
		err = o.spec.check(v)
	}
	if err != nil {
		w.Diagnostics.AddError("Not allowed", err.Error())
	}
}

// slow is how long Google takes to make what others depend on. It lets a
// missing dependency show, since Terraform makes the rest meanwhile.
const slow = 300 * time.Millisecond

// Create implements resource.Resource.
func (o *object) Create(ctx context.Context, r resource.CreateRequest, w *resource.CreateResponse) {
	full, v, err := o.complete(r.Plan.Raw)
	if err != nil {
		w.Diagnostics.AddError("Cannot create", err.Error())
		return
	}
	if strings.HasSuffix(o.spec.name, "_iam_member") || slices.Contains([]string{"google_project_service", "google_service_account", "google_container_cluster"}, o.spec.name) {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
		}
	}
	if err := o.cloud.made.make(o.thing(v), o.needs(v)); err != nil {
		w.Diagnostics.AddError("Google would refuse this", err.Error())
		return
	}
	w.State.Raw = full
}

// Read implements resource.Resource. Nothing changes behind Terraform's back.
func (o *object) Read(_ context.Context, r resource.ReadRequest, w *resource.ReadResponse) {
	w.State.Raw = r.State.Raw
}

// Update implements resource.Resource.
func (o *object) Update(_ context.Context, r resource.UpdateRequest, w *resource.UpdateResponse) {
	full, _, err := o.complete(r.Plan.Raw)
	if err != nil {
		w.Diagnostics.AddError("Cannot update", err.Error())
		return
	}
	w.State.Raw = full
}

// Delete implements resource.Resource.
func (o *object) Delete(_ context.Context, r resource.DeleteRequest, w *resource.DeleteResponse) {
	v, err := read(r.State.Raw)
	if err != nil {
		w.Diagnostics.AddError("Cannot delete", err.Error())
		return
	}
	if v.at("deletion_protection") == true {
		w.Diagnostics.AddError("Cannot delete", fmt.Sprintf("%s: deletion_protection is true", v.text("id")))
		return
	}
	if err := o.cloud.made.remove(o.thing(v)); err != nil {
		w.Diagnostics.AddError("Cannot delete", err.Error())
	}
}

// thing names what is made, for those that need it.
func (o *object) thing(v values) string { return o.spec.name + " " + v.text("id") }

// needs are those of the spec and those that all have: the service is enabled,
// and an account of the project that is named is there.
func (o *object) needs(v values) []need {
	var all []need
	if o.spec.api != "" {
		all = append(all, need{"google_project_service " + o.cloud.project + "/" + o.spec.api, "the service is not enabled yet"})
	}
	if o.spec.name != "google_service_account" {
		for _, path := range accountPaths() {
			if email, ok := o.cloud.ownAccount(v.text(path)); ok {
				all = append(all, need{"google_service_account projects/" + o.cloud.project + "/serviceAccounts/" + email, "the account does not exist yet"})
			}
		}
	}
	if strings.Contains(v.text("member"), ".svc.id.goog[") {
		all = append(all, need{"google_container_cluster *", "the pool of workload identities is made with the first cluster"})
	}
	if o.spec.needs != nil {
		all = append(all, o.spec.needs(v)...)
	}
	return all
}

// accountPaths are where types name an account.
func accountPaths() []string {
	return []string{
		"member", "service_account", "template.0.service_account",
		"push_config.0.oidc_token.0.service_account_email",
		"cluster_autoscaling.0.auto_provisioning_defaults.0.service_account",
	}
}

// complete gives every attribute that is not known yet a value.
func (o *object) complete(plan tftypes.Value) (tftypes.Value, values, error) {
	v, err := read(plan)
	if err != nil {
		return plan, nil, err
	}
	if _, ok := v["project"]; !ok {
		v["project"] = o.cloud.project
	}
	if _, ok := v["region"]; !ok {
		v["region"] = o.cloud.region
	}
	v["project_number"] = projectNumber
	known := map[string]string{"project": o.cloud.project}
	for name, template := range o.spec.set {
		known[name] = v.expand(template)
		v[name] = known[name]
	}
	known["id"] = v.expand(o.spec.id)
	v["id"] = known["id"]
	full, err := tftypes.Transform(plan, func(path *tftypes.AttributePath, x tftypes.Value) (tftypes.Value, error) {
		if x.IsKnown() {
			return x, nil
		}
		name, _ := path.LastStep().(tftypes.AttributeName)
		return guess(known, string(name), x.Type()), nil
	})
	return full, v, err
}

// guess is a value for an attribute that the provider finds.
func guess(known map[string]string, name string, t tftypes.Type) tftypes.Value {
	switch {
	case t.Is(tftypes.String):
		if s, ok := known[name]; ok {
			return tftypes.NewValue(t, s)
		}
		return tftypes.NewValue(t, "found-"+name)
	case t.Is(tftypes.Bool):
		return tftypes.NewValue(t, false)
	case t.Is(tftypes.Number):
		return tftypes.NewValue(t, 0)
	}
	return tftypes.NewValue(t, nil)
}

// data is a data type of any spec.
type data struct {
	spec  spec
	cloud *cloud
}

// Metadata implements datasource.DataSource.
func (d *data) Metadata(_ context.Context, _ datasource.MetadataRequest, w *datasource.MetadataResponse) {
	w.TypeName = d.spec.name
}

// Schema implements datasource.DataSource.
func (d *data) Schema(_ context.Context, _ datasource.SchemaRequest, w *datasource.SchemaResponse) {
	w.Schema = d.spec.dataSchema()
}

// Configure implements datasource.DataSourceWithConfigure.
func (d *data) Configure(_ context.Context, r datasource.ConfigureRequest, _ *datasource.ConfigureResponse) {
	d.cloud, _ = r.ProviderData.(*cloud)
}

// Read implements datasource.DataSource.
func (d *data) Read(_ context.Context, r datasource.ReadRequest, w *datasource.ReadResponse) {
	full, err := d.complete(r.Config.Raw)
	if err != nil {
		w.Diagnostics = append(w.Diagnostics, diag.NewErrorDiagnostic("Cannot read", err.Error()))
		return
	}
	w.State.Raw = full
}

// complete fills in what was not given.
func (d *data) complete(config tftypes.Value) (tftypes.Value, error) {
	v, err := read(config)
	if err != nil {
		return config, err
	}
	if _, ok := v["project"]; !ok {
		v["project"] = d.cloud.project
	}
	if _, ok := v["project_id"]; !ok {
		v["project_id"] = d.cloud.project
	}
	v["id"] = v.expand(d.spec.id)
	for name, template := range d.spec.set {
		v[name] = v.expand(template)
	}
	return tftypes.Transform(config, func(path *tftypes.AttributePath, x tftypes.Value) (tftypes.Value, error) {
		name, ok := path.LastStep().(tftypes.AttributeName)
		if !ok || !x.IsNull() {
			return x, nil
		}
		return tftypes.NewValue(x.Type(), v.text(string(name))), nil
	})
}
