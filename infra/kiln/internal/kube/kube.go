// Package kube reaches the dispatcher of a cluster with nothing but a kubeconfig: it
// finds a pod of the dispatcher, connects to its port through the API server, and reads
// the token of its doors if the user may.
//
// Connections go through pods/portforward. The API server's proxy for Services would be
// simpler, but it takes the header Authorization for its own.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// DefaultNamespace is where Kiln's manifests put the dispatcher.
const DefaultNamespace = "kiln"

// dispatcherLabel selects the dispatcher's pods.
const dispatcherLabel = "app.kubernetes.io/name=kiln-dispatcher"

// tokenName is the variable of the dispatcher's environment that has the tokens of its
// doors, one a line.
const tokenName = "KILN_TOKEN"

// Options say which dispatcher is meant.
type Options struct {
	File      string   // a kubeconfig; "" is those of Files
	Files     []string // kubeconfigs that are merged; those that do not exist are passed over
	Context   string   // of the kubeconfig; "" is its current one
	Namespace string   // of the dispatcher; "" is DefaultNamespace
}

// Files are the kubeconfigs that kubectl would read: those of a list such as KUBECONFIG,
// or else that in a home directory.
func Files(list, home string) []string {
	if files := filepath.SplitList(list); len(files) > 0 {
		return files
	}
	return []string{filepath.Join(home, ".kube", "config")}
}

// Cluster is a cluster with a dispatcher.
type Cluster struct {
	config    *rest.Config
	http      *http.Client
	base      *url.URL
	context   string
	namespace string
}

// Open reads the kubeconfig. Nothing is asked of the cluster yet.
func Open(o Options) (*Cluster, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: o.File, Precedence: o.Files}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context})
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	name := o.Context
	if name == "" {
		name = raw.CurrentContext
	}
	where := strings.Join(o.Files, ", ")
	if o.File != "" {
		where = o.File
	}
	known := slices.Sorted(maps.Keys(raw.Contexts))
	switch {
	case len(known) == 0:
		return nil, fmt.Errorf("there is no context in the kubeconfig %s: name another file with --kubeconfig or KUBECONFIG", where)
	case name == "":
		return nil, fmt.Errorf("the kubeconfig %s has no current context: name one with --context, of %s", where, strings.Join(known, ", "))
	case raw.Contexts[name] == nil:
		return nil, fmt.Errorf("the kubeconfig %s has no context %s: it has %s", where, name, strings.Join(known, ", "))
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read context %s of the kubeconfig %s: %w", name, where, err)
	}
	config.UserAgent = "kiln"
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("use context %s of the kubeconfig %s: %w", name, where, err)
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("use context %s of the kubeconfig %s: %w", name, where, err)
	}
	namespace := o.Namespace
	if namespace == "" {
		namespace = DefaultNamespace
	}
	return &Cluster{config: config, http: client, base: base, context: name, namespace: namespace}, nil
}

// path is the URL of an object in the dispatcher's namespace.
func (c *Cluster) path(elements ...string) *url.URL {
	return c.base.JoinPath(append([]string{"api/v1/namespaces", c.namespace}, elements...)...)
}

// statusError is a refusal of the API server.
type statusError struct {
	code    int
	message string
}

func (e *statusError) Error() string { return e.message }

// refused reports whether an error is a refusal with one of the codes.
func refused(err error, codes ...int) bool {
	e, ok := errors.AsType[*statusError](err)
	return ok && slices.Contains(codes, e.code)
}

// maxAnswer is how many bytes of an answer are read.
const maxAnswer = 64 << 20

// get reads an object.
func (c *Cluster) get(ctx context.Context, u *url.URL, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("the API server of context %s does not answer: %w", c.context, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer of the API server of context %s: %w", c.context, err)
	}
	if resp.StatusCode != http.StatusOK {
		var status metav1.Status
		text := strings.TrimSpace(string(body))
		if json.Unmarshal(body, &status) == nil && status.Message != "" {
			text = status.Message
		}
		return &statusError{resp.StatusCode, fmt.Sprintf("%d %s", resp.StatusCode, text)}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the answer of the API server of context %s: %w", c.context, err)
	}
	return nil
}

// pod finds a pod of the dispatcher that serves: of several the newest.
func (c *Cluster) pod(ctx context.Context) (*corev1.Pod, error) {
	u := c.path("pods")
	u.RawQuery = url.Values{"labelSelector": {dispatcherLabel}}.Encode()
	var list corev1.PodList
	switch err := c.get(ctx, u, &list); {
	case refused(err, http.StatusUnauthorized):
		return nil, fmt.Errorf("the cluster of context %s does not know you: log in to it again (%w)", c.context, err)
	case refused(err, http.StatusForbidden):
		return nil, fmt.Errorf("you may not list pods in namespace %s of context %s: ask for the Role that docs/operating.md has for users, or name another namespace with --namespace (%w)", c.namespace, c.context, err)
	case err != nil:
		return nil, fmt.Errorf("look for the dispatcher: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, fmt.Errorf("no dispatcher is in namespace %s of context %s: name its namespace with --namespace, or another context with --context", c.namespace, c.context)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	for i := range list.Items {
		if p := &list.Items[i]; p.DeletionTimestamp == nil && isReady(p) {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no dispatcher in namespace %s is ready: see kubectl --context %s -n %s describe pod %s", c.namespace, c.context, c.namespace, list.Items[0].Name)
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// dispatcher is its container in a pod.
func dispatcher(p *corev1.Pod) *corev1.Container {
	for i, c := range p.Spec.Containers {
		if c.Name == "dispatcher" {
			return &p.Spec.Containers[i]
		}
	}
	return &p.Spec.Containers[0]
}

// port is the one that the dispatcher listens on.
func port(p *corev1.Pod) (int32, error) {
	c := dispatcher(p)
	for _, name := range []string{"http", "http1", "user-port"} {
		for _, port := range c.Ports {
			if port.Name == name {
				return port.ContainerPort, nil
			}
		}
	}
	if len(c.Ports) > 0 {
		return c.Ports[0].ContainerPort, nil
	}
	return 0, fmt.Errorf("pod %s names no port that the dispatcher listens on", p.Name)
}

// Token finds the token of the dispatcher's doors where its pod gets it from. Without
// an error it is "" if the pod gets none, or gets it in a way that cannot be read from
// here; why says which.
func (c *Cluster) Token(ctx context.Context) (token, why string, err error) {
	p, err := c.pod(ctx)
	if err != nil {
		return "", "", err
	}
	why = fmt.Sprintf("pod %s does not have it in the variable %s", p.Name, tokenName)
	for _, ref := range tokenSources(dispatcher(p)) {
		if ref.value != "" {
			return firstLine(ref.value), "", nil
		}
		var s corev1.Secret
		err := c.get(ctx, c.path("secrets", ref.secret), &s)
		switch {
		case refused(err, http.StatusForbidden):
			why = fmt.Sprintf("you may not read Secret %s in namespace %s", ref.secret, c.namespace)
		case refused(err, http.StatusNotFound):
		case err != nil:
			return "", "", fmt.Errorf("read Secret %s: %w", ref.secret, err)
		case len(s.Data[ref.key]) > 0:
			return firstLine(string(s.Data[ref.key])), "", nil
		}
	}
	return "", why, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(line)
}

// tokenSource is where a container gets the token from: a value, or a key of a Secret.
type tokenSource struct{ value, secret, key string }

func tokenSources(c *corev1.Container) []tokenSource {
	var found []tokenSource
	for _, e := range c.Env {
		switch {
		case e.Name != tokenName:
		case e.Value != "":
			found = append(found, tokenSource{value: e.Value})
		case e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil:
			found = append(found, tokenSource{secret: e.ValueFrom.SecretKeyRef.Name, key: e.ValueFrom.SecretKeyRef.Key})
		}
	}
	for _, e := range c.EnvFrom {
		if key, ok := strings.CutPrefix(tokenName, e.Prefix); ok && e.SecretRef != nil {
			found = append(found, tokenSource{secret: e.SecretRef.Name, key: key})
		}
	}
	return found
}
