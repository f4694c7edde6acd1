package launch

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A pod that no node is for says for which platform it waits and what can be done; one
// that waits for room on the nodes does not speak of platforms.
func TestWaitingForANode(t *testing.T) {
	pod := func(selector map[string]string) []*corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeSelector: selector}}
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes are available.",
		}}
		return []*corev1.Pod{p}
	}
	const plain = "Unschedulable: 0/1 nodes are available."
	got := waiting(pod(Template{}.nodes("linux/arm/v7")))
	if !strings.HasPrefix(got, plain) || !strings.Contains(got, "a node for linux/arm;") || !strings.Contains(got, "anyNode") {
		t.Error(got)
	}
	if got := waiting(pod(Template{AnyNode: true}.nodes("linux/arm64"))); got != plain {
		t.Error(got)
	}
}
