// Command stubgoogle stands in for Google's Terraform provider in tests. It
// knows the types that Kiln's modules use and no others, reaches no network and
// creates nothing. Never install it where the real provider is meant.
package main

import (
	"context"
	"log"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"

	"github.com/kilnhook/kiln/terraform/tests/stubgoogle/fake"
)

func main() {
	err := providerserver.Serve(context.Background(), fake.New, providerserver.ServeOpts{
		Address: "registry.terraform.io/hashicorp/google",
	})
	if err != nil {
		log.Fatal(err)
	}
}
