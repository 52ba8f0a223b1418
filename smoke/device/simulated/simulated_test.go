package simulated

import (
	"errors"
	"testing"

	"github.com/nationtech/harmony-fleet/agent/bus"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/device"
)

var _ device.Device = (*Device)(nil)

func newDevice(t *testing.T) *Device {
	t.Helper()
	d, err := New(Options{Target: bus.Target{Device: "pi-1"}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestRunning: what is started anew can be told from what runs on.
func TestRunning(t *testing.T) {
	d := newDevice(t)
	one, two := wire.DeploymentID{Namespace: "default", Name: "one"}, wire.DeploymentID{Namespace: "default", Name: "two"}
	v1, v2 := store.Workload{Digest: score.DigestOf([]byte("v1"))}, store.Workload{Digest: score.DigestOf([]byte("v2"))}
	for _, step := range []struct {
		reason string
		shall  map[wire.DeploymentID]store.Workload
		of     []string
		want   string
	}{
		{"it runs what it shall", map[wire.DeploymentID]store.Workload{one: v1}, nil, "pi-1 default/one 1"},
		{"what does not change runs on", map[wire.DeploymentID]store.Workload{one: v1, two: v1}, nil, "pi-1 default/one 1\npi-1 default/two 2"},
		{"another version is started", map[wire.DeploymentID]store.Workload{one: v1, two: v2}, []string{"two"}, "pi-1 default/two 3"},
		{"what shall not run ends", map[wire.DeploymentID]store.Workload{two: v2}, []string{"one"}, ""},
		{"and is another one later", map[wire.DeploymentID]store.Workload{one: v1, two: v2}, nil, "pi-1 default/one 4\npi-1 default/two 3"},
	} {
		desired := store.Desired{Deployments: step.shall}
		if err := d.Apply(desired); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Running(t.Context(), step.of...); err != nil || got != step.want {
			t.Errorf("%s: %q, %v, want %q", step.reason, got, err, step.want)
		}
		if held := d.Desired(); len(held.Deployments) != len(step.shall) {
			t.Errorf("%s: it holds %v", step.reason, held)
		}
	}
}

func TestLog(t *testing.T) {
	d := newDevice(t)
	for _, step := range []struct {
		reason string
		hear   func()
		want   string
	}{
		{"at first it is alone", func() {}, "pi-1: it has not connected yet"},
		{"all is well", func() { d.connection("nats://127.0.0.1", nil) }, ""},
		{"it was refused", func() { d.refused(errors.New("not signed")) }, "pi-1: not signed"},
		{"and is cut off", func() { d.connection("", errors.New("gone")) }, "pi-1: gone\npi-1: not signed"},
	} {
		step.hear()
		if got := d.Log(t.Context()); got != step.want {
			t.Errorf("%s: %q, want %q", step.reason, got, step.want)
		}
	}
}
