// Module serving pins Knative Serving, whose types Kiln's manifests are checked
// against. Nothing of it is compiled.
module github.com/kilnhook/kiln/e2e/cluster/serving

go 1.26.8

require knative.dev/serving v0.50.0
