package cmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/infra/kiln/internal/client"
	"github.com/kilnhook/kiln/infra/kiln/internal/kube"
)

// currentContext is the value of --kube that names no context.
const currentContext = "-"

// kubeFlags say which cluster is meant, if one is.
type kubeFlags struct {
	kube       string // --kube: "" is none, currentContext that of the kubeconfig
	context    string // --context
	namespace  string // --namespace
	kubeconfig string // --kubeconfig
	token      string // --token
}

func (a *app) defineKube(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&a.kube, "kube", "", "talk to the Kiln of a cluster: of the current context of the kubeconfig, or of the one named; needs a right to pods/portforward")
	flags.Lookup("kube").NoOptDefVal = currentContext
	flags.StringVar(&a.context, "context", "", "context of the kubeconfig, of --kube")
	flags.StringVarP(&a.namespace, "namespace", "n", "", "namespace of the dispatcher, of --kube (default: "+kube.DefaultNamespace+")")
	flags.StringVar(&a.kubeconfig, "kubeconfig", "", "the kubeconfig, of --kube (KUBECONFIG; default: ~/.kube/config)")
	flags.StringVar(&a.token, "token", "", "token of the dispatcher's doors (KILN_TOKEN, which other users of this machine cannot see; of a cluster: default is that in the dispatcher's Secret)")
}

// checkKube makes of the flags what they mean together.
func (a *app) checkKube(cmd *cobra.Command) error {
	if a.Plugin && a.kube == "" {
		a.kube = currentContext
	}
	if a.kube == "" {
		for name, value := range map[string]string{"context": a.context, "namespace": a.namespace, "kubeconfig": a.kubeconfig} {
			if value != "" {
				return &usageError{fmt.Errorf("--%s is of --kube", name)}
			}
		}
		return nil
	}
	if why, ok := notOfCluster()[cmd.Name()]; ok {
		return &usageError{fmt.Errorf("kiln %s is of the stack on one machine: %s", cmd.Name(), why)}
	}
	if a.server != "" {
		return &usageError{errors.New("--kube and --server exclude each other")}
	}
	if a.kube != currentContext {
		if a.context != "" && a.context != a.kube {
			return &usageError{fmt.Errorf("--kube=%s and --context %s are two contexts", a.kube, a.context)}
		}
		a.context = a.kube
	}
	return nil
}

// notOfCluster says of commands why they cannot be used with --kube.
func notOfCluster() map[string]string {
	return map[string]string{
		"up":     "a cluster is installed with kustomize, see docs/operating.md",
		"submit": "a cluster has no bucket of its own; upload to the one that its triggers watch",
		"events": "a cluster's go to its sink or Broker",
		"doctor": "on a cluster look at kubectl -n kiln get pods, and at the alerts",
	}
}

// self is how this program was called, for advice.
func (a *app) self() string {
	words := []string{"kiln"}
	switch {
	case a.Plugin:
		words = []string{"kubectl", "kiln"}
		if a.context != "" {
			words = append(words, "--context", a.context)
		}
	case a.context != "":
		words = append(words, "--kube="+a.context)
	case a.kube != "":
		words = append(words, "--kube")
	}
	if a.namespace != "" {
		words = append(words, "-n", a.namespace)
	}
	return strings.Join(words, " ")
}

// clusterClient returns a client of the dispatcher on a cluster.
func (a *app) clusterClient(ctx context.Context) (*client.Client, error) {
	cluster, err := kube.Open(kube.Options{
		File: a.kubeconfig, Files: kube.Files(a.Getenv("KUBECONFIG"), a.Getenv("HOME")), Context: a.context, Namespace: a.namespace,
	})
	if err != nil {
		return nil, err
	}
	c := &client.Client{
		URL: "http://localhost", Token: a.ownToken(),
		HTTP: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := cluster.Dial(ctx, network, address)
			if err != nil {
				return nil, &client.DialError{Err: err}
			}
			return conn, nil
		}}},
	}
	if c.Token != "" {
		c.Refused = "the token of --token or KILN_TOKEN is not one of the dispatcher's"
		return c, nil
	}
	token, why, err := cluster.Token(ctx)
	if err != nil {
		return nil, err
	}
	c.Token, c.Refused = token, "the dispatcher's Secret has another token now: restart it"
	if token == "" {
		c.Refused = why + ": give the dispatcher's token with KILN_TOKEN"
	}
	return c, nil
}

// ownToken is the token that the user gave.
func (a *app) ownToken() string {
	if a.token != "" {
		return a.token
	}
	token, _, _ := strings.Cut(strings.TrimSpace(a.Getenv("KILN_TOKEN")), "\n")
	return token
}
