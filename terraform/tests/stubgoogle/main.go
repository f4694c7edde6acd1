// Command stubgoogle stands in for Google's Terraform provider in tests. It
// knows the types that Kiln's modules use and no others, reaches no network and
// creates nothing. Never install it where the real provider is meant.
//
// The variable KILN_STUB_WORLD names the file that remembers what was made.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"

	"github.com/kilnhook/kiln/terraform/tests/stubgoogle/fake"
)

func main() {
	world := os.Getenv("KILN_STUB_WORLD")
	err := providerserver.Serve(context.Background(), func() provider.Provider { return fake.New(world) }, providerserver.ServeOpts{
		Address: "registry.terraform.io/hashicorp/google",
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "stubgoogle:", err)
		os.Exit(1)
	}
}
