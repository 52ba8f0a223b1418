package operator_test

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// TestHeldDevice: an annotation holds a device through its signed manifest, the
// condition says what the device makes of it, and a mistake is told.
func TestHeldDevice(t *testing.T) {
	w := newWorld(t)
	w.startConverged()
	w.announce("pi-1", map[string]string{"group": "a"})
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	w.awaitDesired("pi-1", d)
	device := &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "pi-1"}}
	annotate := func(value string) {
		t.Helper()
		w.must(w.api.Get(t.Context(), client.ObjectKeyFromObject(device), device))
		w.change(device, func() { metav1.SetMetaDataAnnotation(&device.ObjectMeta, v1alpha1.AnnotationHoldUntil, value) })
	}
	says := func(reason string) {
		t.Helper()
		w.eventually("condition "+reason, func() error {
			w.must(w.api.Get(t.Context(), client.ObjectKeyFromObject(device), device))
			if c := condition(device.Status.Conditions, v1alpha1.ConditionHeld); c.Reason != reason {
				return fmt.Errorf("it is %+v", c)
			}
			return nil
		})
	}
	report := func(h *wire.Hold) {
		t.Helper()
		info, err := wire.DeviceInfo{Labels: map[string]string{"group": "a"}, Hold: h}.Encode()
		w.must(err)
		w.put(wire.DeviceInfos, wire.DeviceKey("pi-1"), info)
	}
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	awaitManifest := func(until time.Time) {
		t.Helper()
		w.eventually("the manifest", func() error {
			if m := w.manifest("pi-1"); !m.HoldUntil.Equal(until) {
				return fmt.Errorf("it says %s", m.HoldUntil)
			}
			return nil
		})
		w.must(w.desired("pi-1", d))
	}
	annotate("tomorrow")
	says(v1alpha1.ReasonInvalidHold)
	w.awaitEvent(device, v1alpha1.ReasonInvalidHold, "write one such as")
	awaitManifest(time.Time{})
	annotate(until.Format(time.RFC3339))
	awaitManifest(until)
	says("") // until the device says that it follows
	report(&wire.Hold{Until: until, By: wire.HeldByCluster})
	says(v1alpha1.ReasonHeldByCluster)
	report(&wire.Hold{Until: until, By: wire.HeldByDevice})
	says(v1alpha1.ReasonHeldByDevice)
	report(nil)
	says("")
	w.change(device, func() { delete(device.Annotations, v1alpha1.AnnotationHoldUntil) })
	awaitManifest(time.Time{})
}
