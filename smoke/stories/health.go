package stories

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/argocd"
)

// tellHealth has Argo CD judge resources by their status, for which it is told how.
func tellHealth(ctx context.Context, argo *argocd.ArgoCD) error {
	for _, tc := range []struct {
		word, why string
		resource  any
	}{
		{"Progressing", "yet to look", deployment(func(d *v1alpha1.Deployment) { d.Status = v1alpha1.DeploymentStatus{} })},
		{"Progressing", "yet to look", deployment(func(d *v1alpha1.Deployment) { d.Generation++ }, is("Ready", "True", "Succeeded"))},
		{"Progressing", "says Progressing", deployment(nil, is("Ready", "False", "Progressing"), is("Reconciling", "True", "Progressing"))},
		{"Healthy", "says Succeeded", deployment(nil, is("Ready", "True", "Succeeded"))},
		{"Healthy", "says NoDevicesMatch", deployment(nil, is("Ready", "True", "NoDevicesMatch"))},
		{"Suspended", "says Paused", deployment(nil, is("Ready", "False", "Paused"))},
		{"Degraded", "says InvalidSpec", deployment(nil, is("Ready", "False", "InvalidSpec"), is("Stalled", "True", "InvalidSpec"))},
		{"Degraded", "pi-1: ImageMissing: no such image", deployment(func(d *v1alpha1.Deployment) {
			d.Status.Aggregate.LastError = &v1alpha1.LastError{Device: "pi-1", Reason: "ImageMissing", Message: "no such image"}
		}, is("Ready", "False", "DevicesFailed"), is("Stalled", "True", "DevicesFailed"))},
		{"Degraded", "pi-1: Exited: ", deployment(func(d *v1alpha1.Deployment) {
			d.Status.Aggregate.LastError = &v1alpha1.LastError{Device: "pi-1", Reason: "Exited"}
		}, is("Ready", "False", "DevicesFailed"), is("Stalled", "True", "DevicesFailed"))},
		{"Progressing", "No heartbeat", deviceWith()},
		{"Progressing", "No heartbeat", deviceWith(is("Reachable", "False", "NeverSeen"))},
		{"Healthy", "says HeartbeatReceived", deviceWith(is("Reachable", "True", "HeartbeatReceived"))},
		{"Degraded", "says HeartbeatMissed", deviceWith(is("Reachable", "False", "HeartbeatMissed"))},
		{"Degraded", "says TwoAgents", deviceWith(is("Reachable", "True", "HeartbeatReceived"), is("IdentityConflict", "True", "TwoAgents"))},
	} {
		word, why, err := argo.Health(ctx, tc.resource)
		if err == nil && (word != tc.word || !strings.Contains(why, strings.TrimSpace(tc.why))) {
			err = fmt.Errorf("it calls it %s (%s), want %s (%s): %+v", word, why, tc.word, tc.why, tc.resource)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// is a condition, whose message says its reason.
func is(kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: "it says " + reason}
}

// deployment is one that the operator has seen, and what else is different.
func deployment(change func(*v1alpha1.Deployment), conditions ...metav1.Condition) *v1alpha1.Deployment {
	d := &v1alpha1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: "hello", Namespace: "default", Generation: 2},
		Status:     v1alpha1.DeploymentStatus{ObservedGeneration: 2, Conditions: conditions},
	}
	if change != nil {
		change(d)
	}
	return d
}

func deviceWith(conditions ...metav1.Condition) *v1alpha1.Device {
	return &v1alpha1.Device{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Device"},
		ObjectMeta: metav1.ObjectMeta{Name: "pi-1"},
		Status:     v1alpha1.DeviceStatus{Conditions: conditions},
	}
}
