package operator_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// flood stores far more states than a device can have use for, under keys of a
// pattern with a number in it.
func (w *world) flood(pattern string) {
	w.Helper()
	data, err := wire.DeviceState{Phase: wire.PhaseSucceeded, Digest: score.DigestOf([]byte("flood"))}.Encode()
	w.must(err)
	for i := range 2*wire.MaxDeploymentsPerDevice + 100 {
		w.put(wire.DeviceStates, fmt.Sprintf(pattern, i), data)
	}
}

// TestFloodedStates: a device that fills the bucket of states (A18), before the
// operator starts or while it works, with keys that can be read or not, loses them
// all, which is told in a metric, the log and an event; it reports anew, and others
// keep what they reported.
func TestFloodedStates(t *testing.T) {
	w := newWorld(t)
	w.flood("pi-1.flood.app-%d")
	r := w.startConverged()
	purged := func(before float64) {
		t.Helper()
		w.eventually("the states are purged", func() error {
			keys := slices.DeleteFunc(w.keys(wire.DeviceStates), func(key string) bool { return !strings.HasPrefix(key, "pi-1.") })
			if got := r.metric("fleet_state_purges_total", ""); got <= before || len(keys) > 2*wire.MaxDeploymentsPerDevice {
				return fmt.Errorf("%v purges, %v before, and the device has %d states", got, before, len(keys))
			}
			return nil
		})
	}
	purged(0)
	all := w.settle(2, r)
	for _, pattern := range []string{"pi-1.flood.app-%d", "pi-1.NO_NAMESPACE.%d"} {
		before := r.metric("fleet_state_purges_total", "")
		w.flood(pattern)
		purged(before)
		for _, d := range all {
			w.awaitStatus(d, "what the other one reported counts", func(s v1alpha1.DeploymentStatus) bool {
				return s.Aggregate.Succeeded == 1 && s.Aggregate.MatchedDeviceCount == 2
			})
		}
		for _, d := range all {
			w.awaitStatus(d, "2 succeeded", func(s v1alpha1.DeploymentStatus) bool {
				// One flood may be purged twice, and the device connects anew after either.
				if w.get(wire.DeviceStates, wire.DeploymentKey("pi-1", idOf(d))) == nil {
					w.report("pi-1", idOf(d), wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: digestOf(t, d.Spec.Score)})
				}
				return s.Aggregate.Succeeded == 2 && s.Aggregate.MatchedDeviceCount == 2
			})
		}
	}
	r.waitLog(`msg="purged the states of a device that fills the bucket`)
	device := &v1alpha1.Device{}
	w.must(w.api.Get(t.Context(), client.ObjectKey{Name: "pi-1"}, device))
	w.awaitEvent(device, v1alpha1.ReasonStatesPurged, "purged")
}
