// Package config_test checks Kiln's manifests as kustomize renders them.
package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/knative/launch"
)

// object is a rendered one.
type object = map[string]any

// profiles are the directories with a kustomization.
func profiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, e.Name())
		}
	}
	if len(all) < 6 {
		t.Fatalf("there are only %v", all)
	}
	return all
}

// render returns the objects of a profile by "Kind namespace/name".
func render(t *testing.T, profile string) map[string]object {
	t.Helper()
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), profile)
	if err != nil {
		t.Fatalf("render %s: %v", profile, err)
	}
	all := map[string]object{}
	for _, r := range rendered.Resources() {
		o, err := r.Map()
		if err != nil {
			t.Fatal(err)
		}
		key := r.GetKind() + " " + r.GetNamespace() + "/" + r.GetName()
		if r.GetKind() == "ConfigMap" || r.GetKind() == "Secret" { // its name ends with a hash
			key = key[:strings.LastIndexByte(key, '-')]
		}
		if _, ok := all[key]; ok {
			key = r.GetGvk().Group + " " + key
		}
		all[key] = o
	}
	return all
}

// into reads an object or a part of one as what it is; a field that is not
// known is an error.
func into[T any](t *testing.T, o any) T {
	t.Helper()
	var v T
	m, ok := o.(object)
	if !ok {
		t.Fatalf("%v is no object", o)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(m, &v, true); err != nil {
		t.Fatal(err)
	}
	return v
}

// at returns a field deep in an object.
func at(t *testing.T, o object, path ...string) any {
	t.Helper()
	var v any = o
	for _, p := range path {
		m, ok := v.(object)
		if !ok || m[p] == nil {
			t.Fatalf("there is no %s in %v", strings.Join(path, "."), o["metadata"])
		}
		v = m[p]
	}
	return v
}

// TestLeastPrivilege proves of every profile that it grants no more than it needs:
// nothing on the whole cluster, no secrets, no wildcards; and that both namespaces
// are held to a Pod Security Standard and have network policies.
func TestLeastPrivilege(t *testing.T) {
	levels := map[string]string{"restricted": "restricted"}
	for _, profile := range profiles(t) {
		t.Run(profile, func(t *testing.T) {
			all := render(t, profile)
			policies := map[string]int{}
			for key, o := range all {
				kind, rest, _ := strings.Cut(key, " ")
				namespace, _, _ := strings.Cut(rest, "/")
				switch kind {
				case "ClusterRole", "ClusterRoleBinding":
					t.Errorf("%s is for the whole cluster", key)
				case "Role":
					checkRole(t, into[rbacv1.Role](t, o))
				case "NetworkPolicy":
					policies[namespace]++
				}
			}
			for namespace, want := range map[string]string{"kiln": "restricted", "kiln-builds": "baseline"} {
				if namespace == "kiln-builds" && levels[profile] != "" {
					want = levels[profile]
				}
				if got := into[corev1.Namespace](t, all["Namespace /"+namespace]).Labels["pod-security.kubernetes.io/enforce"]; got != want {
					t.Errorf("namespace %s is held to %q, want %q", namespace, got, want)
				}
				if policies[namespace] == 0 {
					t.Errorf("namespace %s has no network policy", namespace)
				}
			}
			may := map[string]bool{}
			for _, rule := range into[rbacv1.Role](t, all["Role kiln-builds/kiln-dispatcher"]).Rules {
				for _, resource := range rule.Resources {
					may[resource] = true
				}
			}
			if may["jobs"] == (profile == "jobsink") || !may["pods"] || !may["pods/log"] || !may["leases"] {
				t.Errorf("the dispatcher has rights to %v", may)
			}
		})
	}
}

// checkRole checks that a role is about what Kiln works with only.
func checkRole(t *testing.T, role rbacv1.Role) {
	t.Helper()
	allowed := map[string][]string{
		"batch/jobs": {"create", "get", "list", "watch", "delete"}, "/pods": {"get", "list", "watch"}, "/pods/log": {"get"},
		"coordination.k8s.io/leases": {"create", "get", "update"},
	}
	for _, rule := range role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					if !slices.Contains(allowed[group+"/"+resource], verb) {
						t.Errorf("role %s may %s %s/%s", role.Name, verb, group, resource)
					}
				}
			}
		}
	}
}

// TestOptions proves that how Jobs are made can be read, in every profile.
func TestOptions(t *testing.T) {
	want := map[string]launch.Profile{"restricted": launch.ProfileRestricted}
	for _, profile := range profiles(t) {
		text, _ := at(t, render(t, profile)["ConfigMap kiln/kiln-config"], "data", "jobs.yaml").(string)
		o, err := launch.ParseOptions([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", profile, err)
			continue
		}
		if p, ok := want[profile]; ok && o.Template.Profile != p || !ok && o.Template.Profile != launch.ProfileDefault {
			t.Errorf("%s: builds have the profile %s", profile, o.Template.Profile)
		}
		if waits := o.Template.Suspend && o.Template.Queue == "kiln"; waits != (profile == "kueue") {
			t.Errorf("%s: Jobs wait for Kueue: %t", profile, waits)
		}
	}
}

// TestServingIsTheDeployment proves that the dispatcher of Knative Serving is the
// one of the Deployment: the same program with the same arguments, surroundings
// and restrictions.
func TestServingIsTheDeployment(t *testing.T) {
	all := render(t, "knative")
	for key := range all {
		if strings.HasPrefix(key, "Deployment ") {
			t.Errorf("there is %s as well", key)
		}
	}
	got := into[corev1.PodSpec](t, without(t, at(t, all["Service kiln/kiln-dispatcher"], "spec", "template", "spec"), "timeoutSeconds", "containerConcurrency"))
	want := into[corev1.PodSpec](t, at(t, render(t, "eventing")["Deployment kiln/kiln-dispatcher"], "spec", "template", "spec"))
	a, b := got.Containers[0], want.Containers[0]
	if !slices.Equal(a.Args, b.Args) || a.Image != b.Image || !equality.Semantic.DeepEqual(a.Env, b.Env) || !equality.Semantic.DeepEqual(a.EnvFrom, b.EnvFrom) ||
		!equality.Semantic.DeepEqual(a.VolumeMounts, b.VolumeMounts) || !equality.Semantic.DeepEqual(a.Resources, b.Resources) ||
		!equality.Semantic.DeepEqual(got.Volumes, want.Volumes) || got.ServiceAccountName != want.ServiceAccountName {
		t.Errorf("the Service runs\n%+v\nthe Deployment\n%+v", got, want)
	}
	// Serving knows only the container's security context.
	both := *b.SecurityContext
	both.RunAsNonRoot, both.RunAsUser, both.RunAsGroup = want.SecurityContext.RunAsNonRoot, want.SecurityContext.RunAsUser, want.SecurityContext.RunAsGroup
	both.SeccompProfile = want.SecurityContext.SeccompProfile
	if !equality.Semantic.DeepEqual(*a.SecurityContext, both) {
		t.Errorf("the Service may %+v, the Deployment %+v", a.SecurityContext, both)
	}
	if kind := at(t, all["SinkBinding kiln/kiln-dispatcher"], "spec", "subject", "kind"); kind != "Service" {
		t.Errorf("the sink is bound to a %s", kind)
	}
}

// without returns an object without some of its fields.
func without(t *testing.T, o any, fields ...string) object {
	t.Helper()
	m, ok := o.(object)
	if !ok {
		t.Fatalf("%v is no object", o)
	}
	for _, f := range fields {
		delete(m, f)
	}
	return m
}

// TestOverlayOfServing proves that what an installation sets arrives in the
// dispatcher of Knative Serving: kustomize renames what is changed, and where it
// is named.
func TestOverlayOfServing(t *testing.T) {
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	base, err := filepath.Rel(dir, filepath.Join(here, "knative"))
	if err != nil {
		t.Fatal(err)
	}
	overlay := "resources: [" + base + `]
images: [{name: kiln-dispatcher, newName: registry.example.com/kiln/dispatcher, newTag: "1"}]
configMapGenerator: [{name: kiln-environment, namespace: kiln, behavior: merge, literals: [KILN_LEDGER=gs://l]}]
secretGenerator: [{name: kiln-secrets, namespace: kiln, literals: [KILN_TOKEN=t]}]
`
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o644); err != nil {
		t.Fatal(err)
	}
	all := render(t, dir)
	service := at(t, all["Service kiln/kiln-dispatcher"], "spec", "template", "spec")
	pod := into[corev1.PodSpec](t, without(t, service, "timeoutSeconds", "containerConcurrency"))
	c := pod.Containers[0]
	if c.Image != "registry.example.com/kiln/dispatcher:1" {
		t.Errorf("the image is %s", c.Image)
	}
	var named []string
	for _, e := range c.EnvFrom {
		if e.ConfigMapRef != nil {
			named = append(named, e.ConfigMapRef.Name)
		} else {
			named = append(named, e.SecretRef.Name)
		}
	}
	names := map[string]bool{}
	for _, o := range all {
		names[fmt.Sprint(at(t, o, "metadata", "name"))] = true
	}
	for _, n := range append(named, pod.Volumes[0].ConfigMap.Name) {
		if !names[n] || n == "kiln-environment" || n == "kiln-secrets" || n == "kiln-config" {
			t.Errorf("the Service names %s, which there is not", n)
		}
	}
}

// TestInbound proves that the dispatcher lets in those, and only those, who bring it
// what the Trigger sends: Knative names their service account after the Trigger.
func TestInbound(t *testing.T) {
	all := render(t, "inbound")
	env, trigger := all["ConfigMap kiln/kiln-environment"], all["Trigger kiln/kiln-changes"]
	if got, want := at(t, env, "data", "KILN_CLUSTER_AUDIENCE"), at(t, trigger, "spec", "subscriber", "audience"); got != want {
		t.Errorf("the dispatcher expects tokens for %s, the Trigger's are for %s", got, want)
	}
	account := fmt.Sprintf("system:serviceaccount:%s:%s-oidc-eventing.knative.dev-trigger",
		at(t, trigger, "metadata", "namespace"), at(t, trigger, "metadata", "name"))
	if got := at(t, env, "data", "KILN_CLUSTER_SUBJECT"); got != account {
		t.Errorf("the dispatcher expects tokens of %s, the Trigger's are of %s", got, account)
	}
	if uri := at(t, trigger, "spec", "subscriber", "uri"); uri != "/events/in" {
		t.Errorf("changes come to %s", uri)
	}
	if bus := at(t, env, "data", "KILN_BUS"); bus != "sink" {
		t.Errorf("what became of builds goes to %s", bus)
	}
}

// TestJobSinkWithTokens proves that the dispatcher has a token for the JobSink, and that
// its account is the one that the policy lets in.
func TestJobSinkWithTokens(t *testing.T) {
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	base, err := filepath.Rel(dir, filepath.Join(here, "jobsink"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte("resources: ["+base+"]\ncomponents: ["+base+"/authenticated]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	all := render(t, dir)
	pod := into[corev1.PodSpec](t, at(t, all["Deployment kiln/kiln-dispatcher"], "spec", "template", "spec"))
	token := pod.Volumes[len(pod.Volumes)-1].Projected.Sources[0].ServiceAccountToken
	mount := pod.Containers[0].VolumeMounts[len(pod.Containers[0].VolumeMounts)-1]
	sink := all["JobSink kiln-builds/kiln"]
	if want := fmt.Sprintf("sinks.knative.dev/jobsink/%s/%s", at(t, sink, "metadata", "namespace"), at(t, sink, "metadata", "name")); token.Audience != want {
		t.Errorf("the token is for %s, the JobSink is %s", token.Audience, want)
	}
	if file := at(t, all["ConfigMap kiln/kiln-environment"], "data", "KILN_JOBSINK_TOKEN_FILE"); file != mount.MountPath+"/"+token.Path {
		t.Errorf("the token is in %s/%s, the dispatcher reads %s", mount.MountPath, token.Path, file)
	}
	from := fmt.Sprint(at(t, all["EventPolicy kiln-builds/kiln"], "spec", "from"))
	if want := "[map[sub:system:serviceaccount:kiln:" + pod.ServiceAccountName + "]]"; from != want {
		t.Errorf("the policy lets in %s, the dispatcher is %s", from, want)
	}
}

// TestJobSinkIsTheJob proves that a JobSink's Job runs and fails as one of the
// dispatcher's: only where the request comes from is another.
func TestJobSinkIsTheJob(t *testing.T) {
	got := into[batchv1.Job](t, at(t, render(t, "jobsink")["JobSink kiln-builds/kiln"], "spec", "job"))
	text, _ := at(t, render(t, "base")["ConfigMap kiln/kiln-config"], "data", "jobs.yaml").(string)
	o, err := launch.ParseOptions([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want, err := o.Template.Job(events.Request{
		BuildID: "b4fqlqs6nuner3bfunf5738b7r", Trigger: "app", Context: "gs://b/o", Image: "r.example.com/app",
		Sequence: 1, Attempt: 1, Install: "i", Group: "g", RequestedAt: time.Unix(1795400000, 0),
		Change: events.Change{Kind: events.KindObject, Location: "gs://b", Name: "o", Generation: "7"},
	}, "kiln-builds")
	if err != nil {
		t.Fatal(err)
	}
	a, b := got.Spec, want.Spec
	for what, pair := range map[string][2]any{
		"backoffLimit": {a.BackoffLimit, b.BackoffLimit}, "podReplacementPolicy": {a.PodReplacementPolicy, b.PodReplacementPolicy},
		"podFailurePolicy": {a.PodFailurePolicy, b.PodFailurePolicy}, "activeDeadlineSeconds": {a.ActiveDeadlineSeconds, b.ActiveDeadlineSeconds},
		"ttlSecondsAfterFinished": {a.TTLSecondsAfterFinished, b.TTLSecondsAfterFinished},
		"restartPolicy":           {a.Template.Spec.RestartPolicy, b.Template.Spec.RestartPolicy},
		"serviceAccountName":      {a.Template.Spec.ServiceAccountName, b.Template.Spec.ServiceAccountName},
		"automount":               {a.Template.Spec.AutomountServiceAccountToken, b.Template.Spec.AutomountServiceAccountToken},
		"enableServiceLinks":      {a.Template.Spec.EnableServiceLinks, b.Template.Spec.EnableServiceLinks},
		"grace":                   {a.Template.Spec.TerminationGracePeriodSeconds, b.Template.Spec.TerminationGracePeriodSeconds},
		"args":                    {a.Template.Spec.Containers[0].Args[1:], b.Template.Spec.Containers[0].Args[1:]},
		"resources":               {a.Template.Spec.Containers[0].Resources, b.Template.Spec.Containers[0].Resources},
		"security":                {a.Template.Spec.Containers[0].SecurityContext, b.Template.Spec.Containers[0].SecurityContext},
		"message":                 {a.Template.Spec.Containers[0].TerminationMessagePolicy, b.Template.Spec.Containers[0].TerminationMessagePolicy},
	} {
		if !equality.Semantic.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: the JobSink's is %+v, the dispatcher's %+v", what, pair[0], pair[1])
		}
	}
	if first := a.Template.Spec.Containers[0].Args[0]; first != "--request-file=$(K_EVENT_PATH)/event" {
		t.Errorf("the request comes from %s", first)
	}
}
