package knative

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// directories of the module that hold what is applied, in this order.
func directories() []string {
	return []string{
		"config/core", "third_party/eventing-integrations-latest", "config/channels/in-memory-channel", "config/brokers/mt-channel-broker",
	}
}

// koReference is a program where an image belongs.
var koReference = regexp.MustCompile(`ko://\S+`)

// object is one of Kubernetes' objects.
type object = map[string]any

// Manifests returns Knative Eventing as YAML: first the definitions of its types,
// then everything else. The images are those in a registry.
func (e Eventing) Manifests(registry string) (types, rest []byte, err error) {
	var first, second bytes.Buffer
	for _, dir := range directories() {
		err := filepath.WalkDir(filepath.Join(e.source, dir), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(file) != ".yaml" {
				return err
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			text := koReference.ReplaceAllStringFunc(string(raw), func(ref string) string { return image(registry, path.Base(ref)) })
			if err := split(text, &first, &second); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			return nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("read manifests of %s: %w", module, err)
		}
	}
	if first.Len() == 0 || second.Len() == 0 {
		return nil, nil, fmt.Errorf("read manifests of %s: %s has none", module, e.source)
	}
	return first.Bytes(), second.Bytes(), nil
}

// split fits the objects of a file and adds them to those that come first or to
// those that come second.
func split(text string, first, second *bytes.Buffer) error {
	for _, doc := range strings.Split("\n"+text, "\n---") {
		var o object
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			return err
		}
		kind, _ := o["kind"].(string)
		if kind == "" || unwanted(o) {
			continue
		}
		if kind == "Deployment" {
			if err := fit(o); err != nil {
				return err
			}
		}
		raw, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		to := second
		if kind == "CustomResourceDefinition" || kind == "Namespace" {
			to = first
		}
		to.WriteString("---\n")
		to.Write(raw)
	}
	return nil
}

// unwanted reports whether a node of tests does without an object: scaling needs
// a metrics server, and nothing here uses PingSource and RequestReply.
func unwanted(o object) bool {
	kind, _ := o["kind"].(string)
	switch kind {
	case "HorizontalPodAutoscaler", "PodDisruptionBudget":
		return true
	case "Deployment", "StatefulSet":
		return slices.Contains([]string{"pingsource-mt-adapter", "request-reply"}, name(o))
	}
	return false
}

func name(o object) string {
	meta, _ := o["metadata"].(object)
	n, _ := meta["name"].(string)
	return n
}

// elects reports whether a Deployment's program knows leader election, which one
// replica does not need.
func elects(deployment string) bool {
	return slices.Contains([]string{"eventing-controller", "eventing-webhook", "imc-controller", "imc-dispatcher", "mt-broker-controller"}, deployment)
}

// fit makes a Deployment one for a node of two cores: a single replica that asks
// for little, is not held back while it starts, and is ready as soon as it is.
func fit(deployment object) error {
	spec, ok := deployment["spec"].(object)
	if !ok {
		return errors.New("a Deployment has no spec")
	}
	spec["replicas"] = 1
	template, _ := spec["template"].(object)
	pod, _ := template["spec"].(object)
	containers, _ := pod["containers"].([]any)
	if len(containers) == 0 {
		return fmt.Errorf("Deployment %s has no container", name(deployment))
	}
	pod["terminationGracePeriodSeconds"] = 1
	for _, c := range containers {
		container, ok := c.(object)
		if !ok {
			return fmt.Errorf("Deployment %s: a container is no object", name(deployment))
		}
		container["resources"] = object{"requests": object{"cpu": "10m", "memory": "32Mi"}}
		if elects(name(deployment)) {
			container["args"] = []any{"--disable-ha"}
		}
		if probe, ok := container["readinessProbe"].(object); ok {
			probe["initialDelaySeconds"], probe["periodSeconds"], probe["timeoutSeconds"] = 1, 1, 10
		}
		delete(container, "livenessProbe") // on a busy machine it would only add to the load
	}
	return nil
}

// Deployments are the names of what must be available before Knative Eventing is
// used, in the namespace knative-eventing.
func Deployments() []string {
	return []string{
		"eventing-controller", "eventing-webhook", "imc-controller", "imc-dispatcher", "job-sink", "mt-broker-controller",
		"mt-broker-filter", "mt-broker-ingress",
	}
}

// ServingTypes returns the definitions of Knative Serving's types, at the version
// that the module in dir requires. Its programs do not run on a node of tests: it
// has no ingress for them.
func ServingTypes(ctx context.Context, dir string) ([]byte, error) {
	source, err := download(ctx, dir, "knative.dev/serving")
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(source, "config", "core", "300-resources", "*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("read types of Knative Serving: %s has none: %w", source, errors.Join(err, fs.ErrNotExist))
	}
	var all bytes.Buffer
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read types of Knative Serving: %w", err)
		}
		all.WriteString("---\n")
		all.Write(raw)
		all.WriteString("\n")
	}
	return all.Bytes(), nil
}
