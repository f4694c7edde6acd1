// Command cluster runs a real Kubernetes node on this machine, on which Kiln's
// tests run and on which anybody can try Kiln.
//
//	go run ./e2e/cluster up DIR [debian|built]   start a node whose state is in DIR
//	go run ./e2e/cluster knative DIR             put Knative Eventing on it
//	go run ./e2e/cluster down DIR                end it; its state stays in DIR
//
// See package node for what it needs and what it changes: nothing outside its
// own namespaces but one network link.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"github.com/kilnhook/kiln/e2e/cluster/knative"
	"github.com/kilnhook/kiln/e2e/cluster/node"
	"github.com/kilnhook/kiln/e2e/internal/cache"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	usage := errors.New("usage: cluster up DIR [debian|built] | cluster knative DIR | cluster down DIR")
	if len(args) < 2 {
		return usage
	}
	dir, err := filepath.Abs(args[1])
	if err != nil {
		return err
	}
	switch args[0] {
	case "init": // the first process of the node
		return node.Init(dir)
	case "down":
		n, err := node.Open(dir)
		if err != nil {
			return err
		}
		return n.Stop()
	case "knative":
		return addKnative(ctx, dir)
	case "up":
		rt := node.Debian
		if len(args) == 3 {
			rt = node.Runtime(args[2])
		}
		if rt != node.Debian && rt != node.Built {
			return usage
		}
		return up(ctx, dir, rt)
	}
	return usage
}

// up starts a node and says how to use it.
func up(ctx context.Context, dir string, rt node.Runtime) error {
	kept, err := cache.Default()
	if err != nil {
		return err
	}
	programs, err := node.Compile(ctx, kept, filepath.Join("e2e", "cluster"), rt, os.Stderr)
	if err != nil {
		return err
	}
	cfg, err := node.NewConfig(dir, programs, rt)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	n, err := node.Start(ctx, cfg, []string{self, "init"})
	if err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s\nexport PATH=%s:$PATH\n# registry, plain HTTP: %s\n# stop with: go run ./e2e/cluster down %s\n",
		n.Kubeconfig(), programs.KubeDir, n.Registry(), dir)
	return nil
}

// addKnative puts Knative Eventing on a running node.
func addKnative(ctx context.Context, dir string) error {
	kept, err := cache.Default()
	if err != nil {
		return err
	}
	n, err := node.Open(dir)
	if err != nil {
		return err
	}
	eventing, err := knative.Compile(ctx, kept, filepath.Join("e2e", "cluster", "eventing"), os.Stderr)
	if err != nil {
		return err
	}
	bin, err := os.MkdirTemp("", "kiln-executor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	executor := filepath.Join(bin, "executor")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", executor, "./executor").CombinedOutput(); err != nil {
		return fmt.Errorf("compile the executor: %w: %s", err, out)
	}
	return eventing.Install(ctx, n, executor)
}
