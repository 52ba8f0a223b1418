package operator_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// awaitForgotten waits until the broker has nothing that the device wrote.
func (w *world) awaitForgotten(id wire.DeviceID) {
	w.Helper()
	for _, bucket := range []wire.Bucket{wire.DeviceInfos, wire.DeviceHeartbeats, wire.DeviceStates} {
		w.eventually("the device is forgotten", func() error {
			if keys := w.keys(bucket); slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, string(id)) }) {
				return fmt.Errorf("%s holds %q", bucket.Name, keys)
			}
			return nil
		})
	}
}

// TestIDIsUsedAgain: a device that gets the id of one that was removed begins with
// nothing: no label, nothing to run, and no state that it did not report.
func TestIDIsUsedAgain(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	all := w.settle(2, r)
	device := &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "pi-1"}}
	w.must(w.api.Get(t.Context(), client.ObjectKeyFromObject(device), device))
	labelled := device.DeepCopy()
	labelled.Labels["by-hand"] = "x"
	w.must(w.api.Patch(t.Context(), labelled, client.MergeFrom(device)))
	w.must(w.api.Delete(t.Context(), device))
	w.awaitDesired("pi-1")
	r.skew.Store(int64(2 * wire.HeartbeatTimeout))
	w.awaitForgotten("pi-1")
	w.announce("pi-1", map[string]string{})
	w.eventually("there is a Device again", func() error {
		return w.api.Get(t.Context(), client.ObjectKey{Name: "pi-1"}, device)
	})
	if len(device.Labels) > 1 || device.Labels[v1alpha1.LabelDeviceID] != "pi-1" {
		t.Errorf("it begins with the labels %v", device.Labels)
	}
	w.quiet(r)
	w.must(w.desired("pi-1"))
	w.announce("pi-1", map[string]string{"group": "a"})
	w.awaitDesired("pi-1", all...)
	for _, d := range all {
		w.awaitStatus(d, "two devices", func(s v1alpha1.DeploymentStatus) bool { return s.Aggregate.MatchedDeviceCount == 2 })
		w.must(w.api.Get(t.Context(), client.ObjectKeyFromObject(d), d))
		if a := d.Status.Aggregate; a.Succeeded != 1 || a.Pending != 1 {
			t.Errorf("%s: the new device counts as the old one: %+v", d.Name, a)
		}
	}
}

// TestRemovedWhileAway: a device that was removed while no operator ran is
// forgotten by the next one, which does not make its Device anew.
func TestRemovedWhileAway(t *testing.T) {
	w := newWorld(t)
	bao, with := w.policies()
	w.announce("pi-1", map[string]string{"group": "a"})
	w.announce("pi-2", map[string]string{"group": "a"})
	w.must(bao.PutSecret(t.Context(), "fleet", "revoked/pi-1", map[string]any{"reason": "being removed"}))
	r := w.startConverged(with)
	w.eventually("the other one has a Device", func() error {
		return w.api.Get(t.Context(), client.ObjectKey{Name: "pi-2"}, &v1alpha1.Device{})
	})
	r.skew.Store(int64(2 * wire.HeartbeatTimeout))
	w.awaitForgotten("pi-1")
	if err := w.api.Get(t.Context(), client.ObjectKey{Name: "pi-1"}, &v1alpha1.Device{}); !apierrors.IsNotFound(err) {
		t.Errorf("it has a Device: %v", err)
	}
	if w.get(wire.DeviceInfos, "pi-2") == nil {
		t.Error("the other one is forgotten too")
	}
}
