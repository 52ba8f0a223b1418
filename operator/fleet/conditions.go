package fleet

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// verdict is what a Deployment's conditions say.
type verdict struct {
	ready           bool
	reason, message string
	// also is ConditionReconciling or ConditionStalled when that one is true
	// beside Ready; "" for neither.
	also string
	// event is the type of the event that a move to this reason is worth; ""
	// for none.
	event string
}

// judgeDeployment tells how a Deployment does from its spec and its counters.
// Unreachable devices hold nothing up.
func judgeDeployment(dep *deployment, a v1alpha1.Aggregate) verdict {
	follow, fail := dep.counts[classOf(pending, true)], dep.counts[classOf(failed, true)]
	switch {
	case dep.deleting:
		return verdict{reason: v1alpha1.ReasonDeleting, also: v1alpha1.ConditionReconciling,
			message: "The desired state is being taken back"}
	case dep.invalid != "":
		return verdict{reason: v1alpha1.ReasonInvalidSpec, also: v1alpha1.ConditionStalled, event: corev1.EventTypeWarning,
			message: dep.invalid}
	case dep.paused:
		return verdict{reason: v1alpha1.ReasonPaused, event: corev1.EventTypeNormal,
			message: "Devices keep what they have until spec.paused is false"}
	case a.MatchedDeviceCount == 0:
		return verdict{ready: true, reason: v1alpha1.ReasonNoMatch, event: corev1.EventTypeNormal,
			message: "The selector matches no device"}
	case follow > 0:
		return verdict{reason: v1alpha1.ReasonProgressing, also: v1alpha1.ConditionReconciling,
			message: "Some reachable devices have yet to follow"}
	case fail > 0:
		return verdict{reason: v1alpha1.ReasonDevicesFailed, also: v1alpha1.ConditionStalled, event: corev1.EventTypeWarning,
			message: "Some reachable devices failed; status.aggregate.lastError has one of the causes"}
	}
	return verdict{ready: true, reason: v1alpha1.ReasonSucceeded, event: corev1.EventTypeNormal,
		message: "Every reachable device that matches runs this version"}
}

// conditions are those of a verdict: Ready always, and Reconciling or Stalled
// while true, as kstatus has it. A transition time moves with its status alone.
func (v verdict) conditions(base []metav1.Condition, generation int64, now time.Time) []metav1.Condition {
	one := func(kind string, status metav1.ConditionStatus) metav1.Condition {
		c := metav1.Condition{
			Type: kind, Status: status, Reason: v.reason, Message: v.message,
			ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now.UTC().Truncate(time.Second)),
		}
		if old := meta.FindStatusCondition(base, kind); old != nil && old.Status == status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		return c
	}
	ready := metav1.ConditionFalse
	if v.ready {
		ready = metav1.ConditionTrue
	}
	all := []metav1.Condition{one(v1alpha1.ConditionReady, ready)}
	if v.also != "" {
		all = append(all, one(v.also, metav1.ConditionTrue))
	}
	return all
}
