package main_test

import (
	"os"
	"testing"

	"github.com/kilnhook/kiln/e2e/cluster/knative"
	"github.com/kilnhook/kiln/e2e/internal/cache"
)

func TestTmp(t *testing.T) {
	i := newInstall(t)
	kept, err := cache.Default()
	check(t, err)
	eventing, err := knative.Compile(t.Context(), kept, "eventing", os.Stderr)
	check(t, err)
	check(t, eventing.Install(t.Context(), i, i.executor))
	i.applyEventing(t, setup{config: "eventing", profile: "inplace"})
	i.inbound(t)
}
