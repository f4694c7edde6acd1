package knative

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"

	"github.com/kilnhook/kiln/e2e/internal/process"
)

// Node is where Knative Eventing is installed.
type Node interface {
	Kubectl(ctx context.Context, args ...string) *exec.Cmd
	Registry() string // host:port, without TLS
}

// Install puts Knative Eventing on a node and waits until it can be used.
// executor is Kiln's, with which the images are built.
func (e Eventing) Install(ctx context.Context, n Node, executor string) error {
	types, rest, err := e.Manifests(n.Registry())
	if err != nil {
		return err
	}
	if err := apply(ctx, n, types); err != nil {
		return err
	}
	// The types are established while images are made: "kubectl wait" fails on one
	// that has no conditions yet.
	if err := e.Push(ctx, executor, n.Registry()); err != nil {
		return err
	}
	if err := kubectl(ctx, n, "wait", "--for=condition=Established", "--timeout=60s", "crd", "-l", "app.kubernetes.io/name=knative-eventing"); err != nil {
		return err
	}
	if err := apply(ctx, n, rest); err != nil {
		return err
	}
	for _, d := range Deployments() {
		if err := kubectl(ctx, n, "-n", "knative-eventing", "rollout", "status", "deployment/"+d, "--timeout=180s"); err != nil {
			return err
		}
	}
	return nil
}

// apply applies objects on the server's side: some are too large for the
// annotation that the other way leaves.
func apply(ctx context.Context, n Node, objects []byte) error {
	cmd := n.Kubectl(ctx, "apply", "--server-side", "-f", "-")
	cmd.Stdin = bytes.NewReader(objects)
	if _, err := process.Run(ctx, cmd, nil); err != nil {
		return fmt.Errorf("install Knative Eventing: %w", err)
	}
	return nil
}

func kubectl(ctx context.Context, n Node, args ...string) error {
	if _, err := process.Run(ctx, n.Kubectl(ctx, args...), nil); err != nil {
		return fmt.Errorf("install Knative Eventing: %w", err)
	}
	return nil
}
