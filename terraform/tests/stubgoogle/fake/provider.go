// Package fake is a stand-in for Google's Terraform provider. It holds the
// schema of the types that Kiln's modules use, written from the provider's
// documentation: what is required, what is optional, which blocks may occur how
// often, which values are allowed. It makes up what Google would compute, and
// refuses what Google would refuse because something else is not there yet.
//
// It is stricter than complete: a type or argument that it lacks is an error
// although the real provider may know it.
package fake

import (
	"context"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// projectNumber is the number of every project here.
const projectNumber = "123456789012"

// cloud is what resources know of the configuration.
type cloud struct {
	project, region string
	made            *world
}

// ownAccount is the email of a service account that the project owns, if the
// text names one.
func (c *cloud) ownAccount(s string) (string, bool) {
	s = strings.TrimPrefix(s, "serviceAccount:")
	return s, strings.HasSuffix(s, "@"+c.project+".iam.gserviceaccount.com")
}

// google is the provider.
type google struct {
	specs, data []spec
	world       string // file that remembers what was made
}

// New returns the provider. What is made is remembered in a file; if that is
// empty nothing is, and nothing is missed.
func New(world string) provider.Provider {
	return &google{specs: resourceSpecs(), data: dataSpecs(), world: world}
}

// Types are the names of all types, of resources and of data.
func Types() (resources, data []string) {
	for _, s := range resourceSpecs() {
		resources = append(resources, s.name)
	}
	for _, s := range dataSpecs() {
		data = append(data, s.name)
	}
	return resources, data
}

// resourceSpecs are the resource types.
func resourceSpecs() []spec {
	var all []spec
	for _, group := range [][]spec{
		projectTypes(), identityTypes(), storageTypes(), pubsubTypes(), registryTypes(),
		secretTypes(), runTypes(), networkTypes(), clusterTypes(), monitoringTypes(),
	} {
		all = append(all, group...)
	}
	return all
}

// Metadata implements provider.Provider.
func (*google) Metadata(_ context.Context, _ provider.MetadataRequest, w *provider.MetadataResponse) {
	w.TypeName = "google"
}

// Schema implements provider.Provider.
func (*google) Schema(_ context.Context, _ provider.SchemaRequest, w *provider.SchemaResponse) {
	w.Schema = schema.Schema{Attributes: map[string]schema.Attribute{
		"project":               schema.StringAttribute{Optional: true},
		"region":                schema.StringAttribute{Optional: true},
		"zone":                  schema.StringAttribute{Optional: true},
		"billing_project":       schema.StringAttribute{Optional: true},
		"user_project_override": schema.BoolAttribute{Optional: true},
		"default_labels":        schema.MapAttribute{Optional: true, ElementType: types.StringType},
	}}
}

// Configure implements provider.Provider.
func (g *google) Configure(_ context.Context, r provider.ConfigureRequest, w *provider.ConfigureResponse) {
	v, err := read(r.Config.Raw)
	if err != nil {
		w.Diagnostics.AddError("Cannot configure", err.Error())
		return
	}
	c := &cloud{project: v.text("project"), region: v.text("region"), made: &world{file: g.world}}
	w.ResourceData, w.DataSourceData = c, c
}

// Resources implements provider.Provider.
func (g *google) Resources(context.Context) []func() resource.Resource {
	var all []func() resource.Resource
	for _, s := range g.specs {
		all = append(all, func() resource.Resource { return &object{spec: s} })
	}
	return all
}

// DataSources implements provider.Provider.
func (g *google) DataSources(context.Context) []func() datasource.DataSource {
	var all []func() datasource.DataSource
	for _, s := range g.data {
		all = append(all, func() datasource.DataSource { return &data{spec: s} })
	}
	return all
}
