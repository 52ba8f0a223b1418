package operator_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// TestStory follows one Deployment from its creation to its deletion.
func TestStory(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	r.waitLog(`msg="acquired deployment" logger=deployment deployment=` + idOf(d).String())
	w.awaitStatus(d, "nothing matches", func(s v1alpha1.DeploymentStatus) bool {
		return condition(s.Conditions, v1alpha1.ConditionReady).Reason == v1alpha1.ReasonNoMatch
	})

	w.announce("pi-1", map[string]string{"group": "a", "site/floor": "2", "device-id": "pi-9", "Bad Key!": "x"})
	w.announce("pi-2", map[string]string{"group": "b"})
	w.awaitDesired("pi-1", d)
	w.awaitStatus(d, "in progress", func(s v1alpha1.DeploymentStatus) bool {
		return s.Aggregate == v1alpha1.Aggregate{MatchedDeviceCount: 1, Pending: 1} &&
			condition(s.Conditions, v1alpha1.ConditionReconciling).Status == metav1.ConditionTrue
	})
	w.checkDevice("pi-1")

	// A person routes pi-2 by a label of their own; the device's report stays.
	device := &v1alpha1.Device{}
	w.eventually("the Device of pi-2", func() error { return w.api.Get(t.Context(), client.ObjectKey{Name: "pi-2"}, device) })
	w.must(w.api.Patch(t.Context(), device, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"zone":"z"}}}`))))
	w.change(d, func() {
		d.Spec.TargetSelector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "group", Operator: metav1.LabelSelectorOpIn, Values: []string{"a", "b"}}, {Key: "absent", Operator: metav1.LabelSelectorOpDoesNotExist}}}
	})
	w.awaitDesired("pi-2", d)
	w.announce("pi-2", map[string]string{"group": "b", "new": "label"})
	w.eventually("the labels of pi-2", func() error {
		w.must(w.api.Get(t.Context(), client.ObjectKey{Name: "pi-2"}, device))
		want := map[string]string{"group": "b", "new": "label", "zone": "z", "device-id": "pi-2"}
		if diff := cmp.Diff(want, device.Labels); diff != "" {
			return errors.New(diff)
		}
		return nil
	})

	digest := digestOf(t, d.Spec.Score)
	w.report("pi-1", idOf(d), wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: digest})
	w.report("pi-2", idOf(d), wire.DeviceState{Phase: wire.PhaseFailed, Reason: "PullFailed", Message: "no such image", Digest: digest})
	w.awaitStatus(d, "one failed", func(s v1alpha1.DeploymentStatus) bool {
		e := s.Aggregate.LastError
		return s.Aggregate.Succeeded == 1 && s.Aggregate.Failed == 1 && s.Aggregate.MatchedDeviceCount == 2 &&
			e != nil && e.Device == "pi-2" && e.Reason == "PullFailed" && e.Message == "no such image" &&
			condition(s.Conditions, v1alpha1.ConditionReady).Reason == v1alpha1.ReasonDevicesFailed
	})
	w.report("pi-2", idOf(d), wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: digest})
	w.awaitStatus(d, "ready", func(s v1alpha1.DeploymentStatus) bool {
		return s.Aggregate == v1alpha1.Aggregate{MatchedDeviceCount: 2, Succeeded: 2} &&
			condition(s.Conditions, v1alpha1.ConditionReady).Status == metav1.ConditionTrue
	})

	w.must(w.api.Delete(t.Context(), d))
	w.awaitGone(d)
	w.awaitDesired("pi-1")
	w.awaitDesired("pi-2")
	if keys := w.keys(wire.DesiredState); !cmp.Equal(keys, []string{"pi-1", "pi-2"}) {
		t.Errorf("the bucket holds %q, want the two empty manifests alone", keys)
	}
}

// checkDevice checks what the operator made of the report of pi-1.
func (w *world) checkDevice(id string) {
	w.Helper()
	device := &v1alpha1.Device{}
	w.eventually("the status of "+id, func() error {
		w.must(w.api.Get(w.Context(), client.ObjectKey{Name: id}, device))
		reachable := condition(device.Status.Conditions, v1alpha1.ConditionReachable)
		if reachable.Status != metav1.ConditionTrue || len(device.Status.LabelConflicts) == 0 {
			return fmt.Errorf("it is %+v", device.Status)
		}
		return nil
	})
	if device.Labels[v1alpha1.LabelDeviceID] != id || device.Labels["group"] != "a" || device.Labels["site/floor"] != "2" {
		w.Errorf("the labels are %v", device.Labels)
	}
	if device.Spec.Inventory == nil || device.Spec.Inventory.Architecture != "arm64" {
		w.Errorf("the inventory is %+v", device.Spec.Inventory)
	}
}

// TestDroppedLabel: a label that a device reports no longer goes, also when the
// operator was away meanwhile.
func TestDroppedLabel(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	w.announce("pi-1", map[string]string{"group": "a", "extra": "x"})
	device := &v1alpha1.Device{}
	labels := func(want map[string]string) func() error {
		return func() error {
			if err := w.api.Get(t.Context(), client.ObjectKey{Name: "pi-1"}, device); err != nil {
				return err
			}
			if diff := cmp.Diff(want, device.Labels); diff != "" {
				return errors.New(diff)
			}
			return nil
		}
	}
	w.eventually("labels", labels(map[string]string{"group": "a", "extra": "x", "device-id": "pi-1"}))
	r.stop()
	w.announce("pi-1", map[string]string{"group": "a"})
	w.startConverged()
	w.eventually("fewer labels", labels(map[string]string{"group": "a", "device-id": "pi-1"}))
}

// TestRecreatedDeployment: a Deployment that is created anew under its name gets
// a status of its own.
func TestRecreatedDeployment(t *testing.T) {
	w := newWorld(t)
	w.startConverged()
	w.announce("pi-1", map[string]string{"group": "a"})
	namespace := w.namespace()
	for round := range 5 {
		d := deployment(namespace, "web", "a")
		d.Spec.Score = scoreOf(fmt.Sprintf("registry.example/web:%d", round))
		w.must(w.api.Create(t.Context(), d))
		w.awaitDesired("pi-1", d)
		w.report("pi-1", idOf(d), wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: digestOf(t, d.Spec.Score)})
		w.awaitStatus(d, "ready", func(s v1alpha1.DeploymentStatus) bool {
			return s.ObservedGeneration == d.Generation && s.Aggregate.Succeeded == 1 &&
				!condition(s.Conditions, v1alpha1.ConditionReady).LastTransitionTime.Time.Before(d.CreationTimestamp.Add(-time.Second))
		})
		w.must(w.api.Delete(t.Context(), d))
		w.awaitGone(d)
	}
}

// TestPaused holds writes back, and deletes all the same.
func TestPaused(t *testing.T) {
	w := newWorld(t)
	w.startConverged()
	w.announce("pi-1", map[string]string{"group": "a"})
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	w.awaitDesired("pi-1", d)
	before := d.DeepCopy()
	w.change(d, func() { d.Spec.Paused, d.Spec.Score = true, scoreOf("registry.example/web:2") })
	w.awaitStatus(d, "paused", func(s v1alpha1.DeploymentStatus) bool {
		return condition(s.Conditions, v1alpha1.ConditionReady).Reason == v1alpha1.ReasonPaused
	})
	w.never("a write while paused", 500*time.Millisecond, func() error { return w.desired("pi-1", before) })
	w.must(w.api.Delete(t.Context(), d))
	w.awaitGone(d)
	w.awaitDesired("pi-1")
}
