package operator_test

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/openbao"
)

// policiesHere has an operator read the policies that the cluster keeps, and returns
// what writes one.
func (w *world) policiesHere() (put func(id string, labels map[string]v1alpha1.LabelValues), with func(*running)) {
	return func(id string, labels map[string]v1alpha1.LabelValues) {
		w.Helper()
		w.must(w.api.Create(w.Context(), &v1alpha1.DevicePolicy{
			ObjectMeta: metav1.ObjectMeta{Name: id}, Spec: v1alpha1.DevicePolicySpec{Allow: &v1alpha1.DeviceAllowance{Labels: labels}},
		}))
	}, func(r *running) { r.config.Roster.Enabled = true }
}

// policies runs OpenBao and has an operator read the policies that are there.
func (w *world) policies() (*openbao.Fleet, func(*running)) {
	w.Helper()
	server, err := openbao.Start(w.Context(), openbao.Options{})
	w.must(err)
	w.Cleanup(server.Stop)
	bao, err := server.Fleet(w.Context())
	w.must(err)
	section, err := bao.Program(w.Context(), config.OperatorDefaults().OpenBao.LoginRole, w.TempDir())
	w.must(err)
	return bao, func(r *running) { r.config.OpenBao = section }
}

// TestLabelsNeedAPolicy: a device that claims a label that its policy does not
// allow does not get what is meant for those that have it; an admin's label counts.
func TestLabelsNeedAPolicy(t *testing.T) {
	t.Run("in OpenBao", func(t *testing.T) {
		w := newWorld(t)
		bao, with := w.policies()
		w.must(bao.PutPolicy(t.Context(), "pi-1", policy.Policy{Labels: map[string][]string{"group": {"a"}, "site": {policy.AnyValue}}}))
		w.must(bao.PutPolicy(t.Context(), "pi-2", policy.Policy{Labels: map[string][]string{"site": {policy.AnyValue}}}))
		w.labelsNeedAPolicy(with)
	})
	t.Run("in the cluster", func(t *testing.T) {
		w := newWorld(t)
		put, with := w.policiesHere()
		put("pi-1", map[string]v1alpha1.LabelValues{"group": {"a"}, "site": {policy.AnyValue}})
		put("pi-2", map[string]v1alpha1.LabelValues{"site": {policy.AnyValue}})
		w.labelsNeedAPolicy(with)
	})
}

func (w *world) labelsNeedAPolicy(with func(*running)) {
	w.startConverged(with)
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(w.Context(), d))
	for _, id := range []string{"pi-1", "pi-2", "pi-3"} { // pi-3 has no policy
		w.announce(wire.DeviceID(id), map[string]string{"group": "a", "site": "berlin"})
	}
	w.awaitDesired("pi-1", d)
	for id, want := range map[string]map[string]string{
		"pi-1": {"group": "a", "site": "berlin"}, "pi-2": {"site": "berlin"}, "pi-3": {},
	} {
		w.eventually("the labels of "+id, func() error {
			device := &v1alpha1.Device{}
			if err := w.api.Get(w.Context(), client.ObjectKey{Name: id}, device); err != nil {
				return err
			}
			for _, key := range []string{"group", "site"} {
				if device.Labels[key] != want[key] {
					return fmt.Errorf("%s is %q, want %q", key, device.Labels[key], want[key])
				}
			}
			if refused := 2 - len(want); len(device.Status.LabelConflicts) != refused {
				return fmt.Errorf("conflicts are %q, want %d", device.Status.LabelConflicts, refused)
			}
			return nil
		})
		if want["group"] == "" && w.manifest(wire.DeviceID(id)) != nil {
			w.Errorf("%s attracted the Deployment", id)
		}
	}
	device := &v1alpha1.Device{}
	w.must(w.api.Get(w.Context(), client.ObjectKey{Name: "pi-2"}, device))
	changed := device.DeepCopy()
	changed.Labels["group"] = "a"
	w.must(w.api.Patch(w.Context(), changed, client.MergeFrom(device)))
	w.awaitDesired("pi-2", d)
	w.announce("pi-2", map[string]string{"group": "b", "site": "paris"})
	w.eventually("pi-2 moved", func() error {
		w.must(w.api.Get(w.Context(), client.ObjectKey{Name: "pi-2"}, device))
		if device.Labels["site"] != "paris" || device.Labels["group"] != "a" {
			return fmt.Errorf("labels are %v", device.Labels)
		}
		return nil
	})
	w.awaitDesired("pi-2", d)
}
