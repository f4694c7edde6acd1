package launch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/kilnhook/kiln/events"
)

// outcome reads what became of a build from its Job and pods. ok is false as
// long as that is not decided. A pod is believed before its Job's condition
// says the same, which takes seconds more.
func outcome(job *batchv1.Job, pods []*corev1.Pod) (res events.Result, ok bool) {
	pods = slices.SortedFunc(slices.Values(pods), func(a, b *corev1.Pod) int {
		return cmp.Compare(a.CreationTimestamp.UnixNano(), b.CreationTimestamp.UnixNano())
	})
	for _, p := range pods {
		if end := ended(p); end != nil && end.ExitCode == 0 {
			return reported(end), true
		}
	}
	condition := failure(job)
	if len(pods) > 0 {
		last := pods[len(pods)-1]
		if res, ok := fatal(last); ok {
			return res, true
		}
		if condition != nil && condition.Reason != batchv1.JobReasonDeadlineExceeded {
			return lost(job, last), true
		}
	}
	switch {
	case condition == nil && isComplete(job):
		return problem(events.ClassInfra, "no result", "the Job is complete and none of its pods is left"), true
	case condition == nil:
		return events.Result{}, false
	case condition.Reason == batchv1.JobReasonDeadlineExceeded:
		return events.Result{
			Outcome: events.OutcomeFailed, Class: events.ClassTimeout, Reason: "timeout",
			Message: fmt.Sprintf("the build took longer than %d s and was stopped; raise run.timeout in the trigger if it needs more",
				deref(job.Spec.ActiveDeadlineSeconds)),
			FinishedAt: condition.LastTransitionTime.UTC(),
		}, true
	}
	res = problem(events.ClassInfra, "executor lost", fmt.Sprintf("the Job failed (%s): %s", condition.Reason, condition.Message))
	res.FinishedAt = condition.LastTransitionTime.UTC()
	return res, true
}

// fatal is the outcome of a pod whose end no further pod can mend.
func fatal(p *corev1.Pod) (events.Result, bool) {
	end := ended(p)
	if disrupted(p) {
		return events.Result{}, false
	}
	if p.Status.Reason == "Evicted" {
		return evicted(p), true
	}
	switch {
	case end == nil:
		return events.Result{}, false
	case end.Reason == "OOMKilled" || end.ExitCode == exitKilled && reported(end).Outcome != events.OutcomeFailed:
		return events.Result{
			Outcome: events.OutcomeFailed, Class: events.ClassOOM, Reason: "out of memory",
			Message:   "the executor was killed because it reached the container's memory limit; raise run.resources.memory in the trigger",
			StartedAt: end.StartedAt.UTC(), FinishedAt: end.FinishedAt.UTC(), ExitCode: int(end.ExitCode),
		}, true
	case end.ExitCode == exitBuildFailed:
		return reported(end), true
	}
	return events.Result{}, false
}

// evicted is the outcome of a pod that its node threw out for what it used
// itself. (One that had to make room for others is disrupted.)
func evicted(p *corev1.Pod) events.Result {
	res := events.Result{
		Outcome: events.OutcomeFailed, Class: events.ClassDisk, Reason: "evicted",
		Message: "the node evicted the build: " + p.Status.Message + "; raise run.resources.disk in the trigger",
	}
	if strings.Contains(p.Status.Message, "memory") && !strings.Contains(p.Status.Message, "storage") {
		res.Class, res.Message = events.ClassOOM, "the node evicted the build: "+p.Status.Message+"; raise run.resources.memory in the trigger"
	}
	if end := ended(p); end != nil {
		res.StartedAt, res.FinishedAt = end.StartedAt.UTC(), end.FinishedAt.UTC()
	}
	return res
}

// lost is the outcome of a Job that tried as often as it may.
func lost(job *batchv1.Job, last *corev1.Pod) events.Result {
	end := ended(last)
	switch {
	case end == nil:
		return problem(events.ClassInfra, "executor lost",
			fmt.Sprintf("pod %s of Job %s ended without a status: %s", last.Name, job.Name, last.Status.Message))
	case end.Reason == "ContainerCannotRun" || end.Reason == "StartError":
		res := problem(events.ClassInfraStart, end.Reason, end.Message)
		res.FinishedAt = end.FinishedAt.UTC()
		return res
	}
	return reported(end)
}

// reported is the result that an executor left in its termination message, or
// what follows from there being none.
func reported(end *corev1.ContainerStateTerminated) events.Result {
	var res events.Result
	err := json.Unmarshal([]byte(end.Message), &res)
	if err != nil || res.Validate() != nil {
		res = problem(events.ClassInfra, "no result",
			fmt.Sprintf("the executor ended with status %d (%s) and left no result; its last words: %s",
				end.ExitCode, end.Reason, lastWords(end.Message)))
	}
	if res.ExitCode == 0 {
		res.ExitCode = int(end.ExitCode)
	}
	if res.StartedAt.IsZero() {
		res.StartedAt = end.StartedAt.UTC()
	}
	if res.FinishedAt.IsZero() {
		res.FinishedAt = end.FinishedAt.UTC()
	}
	return res
}

// lastWords are the end of an executor's log as people read it: of what is progress the
// text alone, the rest as it is.
func lastWords(log string) string {
	var words []string
	for line := range strings.Lines(log) {
		var p events.Progress
		text := strings.TrimSpace(line)
		if json.Unmarshal([]byte(text), &p) == nil && p.Kind != "" {
			text = cmp.Or(p.Error, p.Text)
		}
		if text != "" {
			words = append(words, text)
		}
	}
	return strings.Join(words, "\n")
}

// waiting says why a build has not begun, from the newest of its pods.
func waiting(pods []*corev1.Pod) string {
	if len(pods) == 0 {
		return "no pod was made; look at the events of the Job and at the namespace's quota"
	}
	p := slices.MaxFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Compare(a.CreationTimestamp.UnixNano(), b.CreationTimestamp.UnixNano())
	})
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Waiting != nil && c.State.Waiting.Reason != "" {
			return strings.TrimSpace(c.State.Waiting.Reason + ": " + c.State.Waiting.Message)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			return c.Reason + ": " + c.Message + noNode(p, c)
		}
	}
	return "pod " + p.Name + " is " + string(p.Status.Phase)
}

// noNode is what else there is to know of a pod that no node is for, and which asks
// for nodes of a platform.
func noNode(p *corev1.Pod, c corev1.PodCondition) string {
	arch := p.Spec.NodeSelector[corev1.LabelArchStable]
	if c.Reason != corev1.PodReasonUnschedulable || arch == "" {
		return ""
	}
	return fmt.Sprintf(" It waits for a node for %s/%s; if there is none, and no RUN needs one, set anyNode in the options of Jobs.",
		p.Spec.NodeSelector[corev1.LabelOSStable], arch)
}

// began is when the executor started to run; false if it has not.
func began(pods []*corev1.Pod) (at int64, ok bool) {
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			switch {
			case c.Name != Container:
			case c.State.Running != nil:
				return c.State.Running.StartedAt.UnixNano(), true
			case c.State.Terminated != nil && !c.State.Terminated.StartedAt.IsZero():
				return c.State.Terminated.StartedAt.UnixNano(), true
			}
		}
	}
	return 0, false
}

// ended is how the executor of a pod ended, nil if it has not.
func ended(p *corev1.Pod) *corev1.ContainerStateTerminated {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == Container {
			return c.State.Terminated
		}
	}
	return nil
}

// disrupted reports whether the cluster took the pod away for its own reasons.
func disrupted(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	})
}

// failure is the condition that the Job failed, nil if it has not.
func failure(job *batchv1.Job) *batchv1.JobCondition {
	for i, c := range job.Status.Conditions {
		if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

func isComplete(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue
	})
}

// problem is an outcome that is not the build's fault.
func problem(class events.Class, reason, message string) events.Result {
	return events.Result{Outcome: events.OutcomeError, Class: class, Reason: reason, Message: message}
}

func deref(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}
