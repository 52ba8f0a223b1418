package fleet

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// A mistake in the annotation is told once, and changes no manifest; the hold of the
// device itself is told beside it.
func TestMalformedHold(t *testing.T) {
	w := newWorld()
	w.f.Converge()
	w.setDevice("a", nil)
	w.settle(t, false)
	w.setHold("a", "tomorrow")
	patches := w.f.TakeDevices(w.now, 10)
	if len(patches) != 1 || patches[0].Event == nil || patches[0].Event.Reason != "InvalidHold" {
		t.Fatalf("got %+v", patches)
	}
	w.patchDevice(patches[0])
	w.f.DeviceWritten(patches[0], true)
	w.setHold("a", "next week")
	w.checkQuiet(t)
	w.sayHeld("a", &wire.Hold{Until: w.now.Add(time.Hour), By: wire.HeldByDevice})
	w.settle(t, false)
	if held := w.devices["a"].conditions[1]; held.Status != metav1.ConditionTrue || held.Reason != "HeldByDevice" {
		t.Errorf("got %+v", held)
	}
	if s := w.store["a"]; s != nil && s.manifest != nil {
		t.Errorf("a manifest was written: %+v", s.manifest)
	}
}

// A longer hold is news though the device was held before, and not since when.
func TestLongerHold(t *testing.T) {
	w := newWorld()
	w.f.Converge()
	w.setDevice("a", nil)
	w.sayHeld("a", &wire.Hold{Until: time.Unix(1_900_000_000, 0), By: wire.HeldByDevice})
	w.settle(t, false)
	before := w.devices["a"].conditions[1]
	w.now = w.now.Add(time.Hour)
	w.sayHeld("a", &wire.Hold{Until: time.Unix(1_900_000_060, 0), By: wire.HeldByCluster})
	w.settle(t, false)
	after := w.devices["a"].conditions[1]
	if after.Reason != "HeldByCluster" || after.Message == before.Message || !after.LastTransitionTime.Equal(&before.LastTransitionTime) {
		t.Errorf("got %+v, before %+v", after, before)
	}
	w.sayHeld("a", nil)
	w.settle(t, false)
	if left := w.devices["a"].conditions; len(left) != 1 {
		t.Errorf("left %+v", left)
	}
}
