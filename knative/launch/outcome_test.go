package launch

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kilnhook/kiln/events"
)

const digest = "sha256:0b31b1c02ff458ad9b7b81cbdf8f028bd54699fa151f221d1e8de6817db93427"

// failedJob is a Job with the condition that it failed for a reason; "" is none.
func failedJob(reason string) *batchv1.Job {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: JobName(buildID)}}
	job.Spec.ActiveDeadlineSeconds = ptr(int64(60))
	if reason != "" {
		job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: reason}}
	}
	return job
}

// pod is a pod made at a second, whose executor ended.
func pod(second int, exit int32, reason, message string) *corev1.Pod {
	p := running(second)
	p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: exit, Reason: reason, Message: message, StartedAt: metav1.Unix(100, 0), FinishedAt: metav1.Unix(200, 0),
	}}
	return p
}

func running(second int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.Unix(int64(second), 0)},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			Name: Container, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Unix(100, 0)}},
		}}},
	}
}

func disruptedPod(second int) *corev1.Pod {
	p := pod(second, exitKilled, "Error", "")
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI"}}
	return p
}

func evictedPod(message string) *corev1.Pod {
	p := running(1)
	p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: message}
	return p
}

// TestOutcome proves the outcome of a build for every end that a Job and its
// pods can come to, and that none is decided too early.
func TestOutcome(t *testing.T) {
	success := `{"outcome":"success","digest":"` + digest + `","exitCode":0}`
	tests := map[string]struct {
		job     *batchv1.Job
		pods    []*corev1.Pod
		outcome events.Outcome // "": not decided
		class   events.Class
		exit    int
	}{
		"nothing yet":        {job: failedJob("")},
		"runs":               {job: failedJob(""), pods: []*corev1.Pod{running(1)}},
		"success":            {job: failedJob(""), pods: []*corev1.Pod{pod(1, 0, "Completed", success)}, outcome: events.OutcomeSuccess},
		"success, no digest": {job: failedJob(""), pods: []*corev1.Pod{pod(1, 0, "Completed", "")}, outcome: events.OutcomeError, class: events.ClassInfra},
		"success on the second try": {
			job:     failedJob(""),
			pods:    []*corev1.Pod{pod(2, 0, "Completed", success), pod(1, 43, "Error", `{"outcome":"error","class":"infra"}`)},
			outcome: events.OutcomeSuccess,
		},
		"a RUN failed": {
			job: failedJob(""), pods: []*corev1.Pod{pod(1, 42, "Error", `{"outcome":"failed","class":"build","exitCode":7}`)},
			outcome: events.OutcomeFailed, class: events.ClassBuild, exit: 7,
		},
		"the world failed once": {
			job: failedJob(""), pods: []*corev1.Pod{pod(1, 43, "Error", `{"outcome":"error","class":"infra"}`)},
		},
		"the world failed too often": {
			job:     failedJob(batchv1.JobReasonBackoffLimitExceeded),
			pods:    []*corev1.Pod{pod(1, 43, "Error", ""), pod(2, 43, "Error", `{"outcome":"error","class":"push"}`)},
			outcome: events.OutcomeError, class: events.ClassPush, exit: 43,
		},
		"out of memory": {
			job: failedJob(""), pods: []*corev1.Pod{pod(1, 137, "OOMKilled", "")},
			outcome: events.OutcomeFailed, class: events.ClassOOM, exit: 137,
		},
		"out of memory, as the runtime does not say": {
			job: failedJob(batchv1.JobReasonPodFailurePolicy), pods: []*corev1.Pod{pod(1, 137, "Error", "")},
			outcome: events.OutcomeFailed, class: events.ClassOOM, exit: 137,
		},
		"a RUN out of memory": {
			job: failedJob(""), pods: []*corev1.Pod{pod(1, 42, "Error", `{"outcome":"failed","class":"oom","exitCode":137}`)},
			outcome: events.OutcomeFailed, class: events.ClassOOM, exit: 137,
		},
		"drained node":              {job: failedJob(""), pods: []*corev1.Pod{disruptedPod(1)}},
		"drained node, then runs":   {job: failedJob(""), pods: []*corev1.Pod{disruptedPod(1), running(2)}},
		"evicted for its disk":      {job: failedJob(""), pods: []*corev1.Pod{evictedPod("Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.")}, outcome: events.OutcomeFailed, class: events.ClassDisk},
		"evicted, emptyDir is full": {job: failedJob(""), pods: []*corev1.Pod{evictedPod(`Usage of EmptyDir volume "work" exceeds the limit "1Gi".`)}, outcome: events.OutcomeFailed, class: events.ClassDisk},
		"evicted for its memory":    {job: failedJob(""), pods: []*corev1.Pod{evictedPod("The node was low on resource: memory.")}, outcome: events.OutcomeFailed, class: events.ClassOOM},
		"deadline": {
			job: failedJob(batchv1.JobReasonDeadlineExceeded), pods: []*corev1.Pod{pod(1, 43, "Error", `{"outcome":"cancelled"}`)},
			outcome: events.OutcomeFailed, class: events.ClassTimeout,
		},
		"deadline, pods are gone": {job: failedJob(batchv1.JobReasonDeadlineExceeded), outcome: events.OutcomeFailed, class: events.ClassTimeout},
		"stopped, not yet said why": {
			job: failedJob(""), pods: []*corev1.Pod{pod(1, 43, "Error", `{"outcome":"cancelled"}`)},
		},
		"failed, pods are gone": {job: failedJob(batchv1.JobReasonBackoffLimitExceeded), outcome: events.OutcomeError, class: events.ClassInfra},
		"cannot run": {
			job: failedJob(batchv1.JobReasonBackoffLimitExceeded), pods: []*corev1.Pod{pod(1, 128, "StartError", "exec: not found")},
			outcome: events.OutcomeError, class: events.ClassInfraStart,
		},
		"a message that is no result": {
			job: failedJob(batchv1.JobReasonBackoffLimitExceeded), pods: []*corev1.Pod{pod(1, 2, "Error", "panic: oh no")},
			outcome: events.OutcomeError, class: events.ClassInfra, exit: 2,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := outcome(test.job, test.pods)
			if !ok {
				got = events.Result{}
			}
			if got.Outcome != test.outcome || got.Class != test.class || test.exit != 0 && got.ExitCode != test.exit {
				t.Errorf("got %+v, want %q %q exit %d", got, test.outcome, test.class, test.exit)
			}
			if ok && got.Outcome == events.OutcomeSuccess && (got.Digest != digest || !got.StartedAt.Equal(time.Unix(100, 0))) {
				t.Errorf("success is %+v", got)
			}
			if ok && got.Outcome != events.OutcomeSuccess && got.Outcome != events.OutcomeFailed && got.Message == "" && test.class != events.ClassPush {
				t.Errorf("nothing tells people what went wrong: %+v", got)
			}
		})
	}
}
