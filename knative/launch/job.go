package launch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kilnhook/kiln/events"
)

// Names of labels and annotations.
const (
	LabelBuild        = "kilnhook.dev/build"   // the build's id; on Job and pod
	LabelPartOf       = "kilnhook.dev/part-of" // the id of the whole, on what builds one platform of it
	LabelTrigger      = "kilnhook.dev/trigger" // the trigger's name, as far as a label can hold it
	LabelTenant       = "kilnhook.dev/tenant"  // likewise
	AnnotationRequest = "kilnhook.dev/request" // the request, JSON; on the pod

	labelManaged = "app.kubernetes.io/managed-by"
	managedBy    = "kiln"
)

// Container is the name of the executor's container.
const Container = "executor"

// Profile is how much a cluster lets a build do, and so how RUN is isolated.
type Profile string

// The profiles, from the most to the least that a pod may.
const (
	// ProfileOverlay gives the pod a user namespace of its own and an unmasked
	// /proc: RUN has its own root. It needs Kubernetes 1.33 or newer and a
	// runtime that knows user namespaces.
	ProfileOverlay Profile = "overlay"
	// ProfileDefault is a root pod with the runtime's default capabilities and
	// no seccomp filter, where the executor can make a user namespace itself.
	ProfileDefault Profile = "default"
	// ProfileInPlace is a root pod with the runtime's default capabilities and
	// seccomp filter: RUN works in the container's own root.
	ProfileInPlace Profile = "inplace"
	// ProfileRestricted satisfies the Pod Security Standard "restricted". It
	// builds Dockerfiles without RUN.
	ProfileRestricted Profile = "restricted"
)

// Template says what every Job of an installation has in common. Image is
// required.
type Template struct {
	Image          string   // of the executor
	Profile        Profile  // "" is ProfileDefault
	Flags          []string // further flags of the executor
	ServiceAccount string   // of the pod; "" is the namespace's default. Its token is never mounted
	Credentials    string   // Secret of type kubernetes.io/dockerconfigjson for registries; "" is none
	Env            []corev1.EnvVar
	Resources      corev1.ResourceRequirements
	Disk           resource.Quantity // limit of the work directory; zero is none
	Queue          string            // of Kueue: a LocalQueue; "" is none
	Suspend        bool              // Jobs do not start until somebody, such as Kueue, lets them
	AnyNode        bool              // a build for a platform runs on any node, not only on one of that platform
	PullPolicy     corev1.PullPolicy
	Timeout        time.Duration // of builds whose request has none; 0 is one hour
	KeepFinished   time.Duration // how long finished Jobs are kept; 0 is one hour
}

// retries is how often a Job tries again after a failure that is the world's.
const retries = 2

// grace is how long an executor that is told to stop has to tidy up.
const grace = 30 * time.Second

// exitKilled is the status of a container that was killed, as for want of memory.
const exitKilled = 137

// JobName is the name of a build's Job.
func JobName(buildID string) string { return "kiln-" + buildID }

// Job makes the Job of a build, or of one platform of it. The error says that no
// executor can run the request.
func (t Template) Job(req events.Request, namespace string) (*batchv1.Job, error) {
	if err := req.Runnable(); err != nil {
		return nil, fmt.Errorf("make Job: %w", err)
	}
	raw, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request of build %s: %w", req.BuildID, err)
	}
	labels := map[string]string{
		labelManaged: managedBy, "app.kubernetes.io/name": "kiln-executor", "app.kubernetes.io/part-of": "kiln",
		LabelBuild: req.BuildID, LabelTrigger: label(req.Trigger), LabelTenant: label(req.Tenant),
	}
	if req.PartOf != "" {
		labels[LabelPartOf] = req.PartOf
	}
	jobLabels := maps.Clone(labels)
	if t.Queue != "" {
		jobLabels["kueue.x-k8s.io/queue-name"] = t.Queue
		jobLabels["kueue.x-k8s.io/priority-class"] = cmp.Or(req.Priority, events.PriorityPush)
	}
	timeout := orDefault(req.Timeout, orDefault(t.Timeout, time.Hour))
	return &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: JobName(req.BuildID), Namespace: namespace, Labels: jobLabels},
		Spec: batchv1.JobSpec{
			Suspend:                 suspend(t.Suspend),
			BackoffLimit:            ptr(int32(retries)),
			ActiveDeadlineSeconds:   ptr(seconds(timeout)),
			TTLSecondsAfterFinished: ptr(int32(seconds(orDefault(t.KeepFinished, time.Hour)))),
			PodReplacementPolicy:    ptr(batchv1.Failed),
			PodFailurePolicy:        failurePolicy(),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{AnnotationRequest: string(raw)}},
				Spec:       t.pod(req),
			},
		},
	}, nil
}

// suspend is what a Job says of itself: nothing, unless it waits.
func suspend(wait bool) *bool {
	if !wait {
		return nil
	}
	return &wait
}

// failurePolicy says which failures end the Job: those that would only happen
// again. A pod that the cluster took away does not count.
func failurePolicy() *batchv1.PodFailurePolicy {
	return &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
		{
			Action: batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
				{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
			},
		},
		{
			Action: batchv1.PodFailurePolicyActionFailJob,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
				ContainerName: ptr(Container),
				Operator:      batchv1.PodFailurePolicyOnExitCodesOpIn,
				Values:        []int32{exitBuildFailed, exitKilled},
			},
		},
	}}
}

// exitBuildFailed is the executor's status for a build that is itself at fault.
const exitBuildFailed = 42

func (t Template) pod(req events.Request) corev1.PodSpec {
	volumes, mounts := t.volumes(req.Resources)
	spec := corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyNever,
		AutomountServiceAccountToken:  ptr(false),
		EnableServiceLinks:            ptr(false),
		ServiceAccountName:            t.ServiceAccount,
		TerminationGracePeriodSeconds: ptr(seconds(grace)),
		NodeSelector:                  t.nodes(req.Platform),
		Volumes:                       volumes,
		Containers: []corev1.Container{{
			Name: Container, Image: t.Image, ImagePullPolicy: t.PullPolicy,
			Args:         t.args(),
			Env:          t.Env,
			Resources:    t.resources(req.Resources),
			VolumeMounts: mounts,
			// What cannot be read of the executor's own message is the end of its log.
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		}},
	}
	t.secure(&spec)
	return spec
}

// nodes selects the nodes on which a platform's programs run.
func (t Template) nodes(platform string) map[string]string {
	os, rest, ok := strings.Cut(platform, "/")
	if !ok || t.AnyNode {
		return nil
	}
	arch, _, _ := strings.Cut(rest, "/")
	return map[string]string{corev1.LabelOSStable: os, corev1.LabelArchStable: arch}
}

// resources are the installation's but for what the build asks for: so much CPU
// is set aside for it, and more memory it may not use.
func (t Template) resources(want events.Resources) corev1.ResourceRequirements {
	r := *t.Resources.DeepCopy()
	set := func(list *corev1.ResourceList, name corev1.ResourceName, q *resource.Quantity) {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = *q
	}
	if want.CPUMillis > 0 {
		set(&r.Requests, corev1.ResourceCPU, resource.NewMilliQuantity(want.CPUMillis, resource.DecimalSI))
	}
	if want.Memory > 0 {
		set(&r.Requests, corev1.ResourceMemory, resource.NewQuantity(want.Memory, resource.BinarySI))
		set(&r.Limits, corev1.ResourceMemory, resource.NewQuantity(want.Memory, resource.BinarySI))
	}
	if want.Disk > 0 {
		set(&r.Requests, corev1.ResourceEphemeralStorage, resource.NewQuantity(want.Disk, resource.BinarySI))
		set(&r.Limits, corev1.ResourceEphemeralStorage, resource.NewQuantity(want.Disk, resource.BinarySI))
	}
	return r
}

// args are the executor's.
func (t Template) args() []string {
	isolation := "auto"
	switch t.Profile {
	case ProfileOverlay:
		isolation = "overlay"
	case ProfileInPlace:
		isolation = "inplace"
	}
	return append([]string{
		"--request-file=/etc/kiln/request.json",
		"--termination-file=/dev/termination-log",
		"--isolation=" + isolation,
		"--work-dir=/work",
		"--progress=json",
	}, t.Flags...)
}

// secure sets what the profile allows the pod.
func (t Template) secure(spec *corev1.PodSpec) {
	c := &spec.Containers[0]
	switch t.Profile {
	case ProfileOverlay:
		spec.HostUsers = ptr(false)
		c.SecurityContext = &corev1.SecurityContext{ProcMount: ptr(corev1.UnmaskedProcMount)}
	case ProfileInPlace:
		c.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	case ProfileRestricted:
		const nobody = 65532
		spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(nobody))}
		c.SecurityContext = &corev1.SecurityContext{
			RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(nobody)), RunAsGroup: ptr(int64(nobody)),
			AllowPrivilegeEscalation: ptr(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
	}
}

// volumes are the request, the work directory, and the credentials. The work
// directory is on a volume: an overlay cannot lie on the container's own root.
func (t Template) volumes(want events.Resources) ([]corev1.Volume, []corev1.VolumeMount) {
	work := &corev1.EmptyDirVolumeSource{}
	switch {
	case want.Disk > 0:
		work.SizeLimit = resource.NewQuantity(want.Disk, resource.BinarySI)
	case !t.Disk.IsZero():
		work.SizeLimit = ptr(t.Disk)
	}
	volumes := []corev1.Volume{
		{Name: "work", VolumeSource: corev1.VolumeSource{EmptyDir: work}},
		{Name: "request", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
			Items: []corev1.DownwardAPIVolumeFile{{
				Path:     "request.json",
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['" + AnnotationRequest + "']"},
			}},
		}}},
	}
	mounts := []corev1.VolumeMount{
		{Name: "work", MountPath: "/work"},
		{Name: "request", MountPath: "/etc/kiln", ReadOnly: true},
	}
	if t.Credentials != "" {
		volumes = append(volumes, corev1.Volume{Name: "credentials", VolumeSource: corev1.VolumeSource{
			Secret: &corev1.SecretVolumeSource{
				SecretName: t.Credentials,
				Items:      []corev1.KeyToPath{{Key: corev1.DockerConfigJsonKey, Path: "config.json"}},
			},
		}})
		mounts = append(mounts, corev1.VolumeMount{Name: "credentials", MountPath: "/kaniko/.docker", ReadOnly: true})
	}
	return volumes, mounts
}

// label makes a name fit for the value of a label.
func label(name string) string {
	const limit = 63
	out := []byte(name)
	if len(out) > limit {
		out = out[:limit]
	}
	for i, b := range out {
		if !alphanumeric(b) && b != '-' && b != '_' && b != '.' {
			out[i] = '-'
		}
	}
	for len(out) > 0 && !alphanumeric(out[0]) {
		out = out[1:]
	}
	for len(out) > 0 && !alphanumeric(out[len(out)-1]) {
		out = out[:len(out)-1]
	}
	return string(out)
}

func alphanumeric(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
}

// seconds rounds up to whole seconds.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func orDefault(d, fallback time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return fallback
}

func ptr[T any](v T) *T { return &v }
