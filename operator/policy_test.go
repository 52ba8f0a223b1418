package operator_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
	"github.com/nationtech/harmony-fleet/smoke/openbao"
)

// policies runs OpenBao and has an operator read the policies that are there.
func (w *world) policies() (*openbao.Server, func(*running)) {
	w.Helper()
	bao, err := openbao.Start(w.Context(), openbao.Options{})
	w.must(err)
	w.Cleanup(bao.Stop)
	account, err := oidc.Start(w.Context(), oidc.Options{})
	w.must(err)
	w.Cleanup(account.Stop)
	w.must(bao.EnableKV(w.Context(), "fleet"))
	w.must(bao.WritePolicy(w.Context(), "fleet-operator",
		`path "fleet/data/devices/*" { capabilities = ["read"] } path "fleet/metadata/revoked/" { capabilities = ["list"] }`+"\n"+secret.OperatorRules()))
	_, err = bao.EnableJWT(w.Context(), "kubernetes", openbao.Issuer{PublicKeys: []string{string(account.PublicKeyPEM())}})
	w.must(err)
	w.must(bao.WriteRole(w.Context(), "kubernetes", "fleet-operator", openbao.Role{Audiences: []string{"openbao"}, Policies: []string{"fleet-operator"}, TTL: time.Hour}))
	token, err := account.Token(map[string]any{"sub": "fleet-operator", "aud": "openbao"})
	w.must(err)
	file := filepath.Join(w.TempDir(), "token")
	w.must(os.WriteFile(file, []byte(token), 0o600))
	return bao, func(r *running) { r.config.OpenBao.Address, r.config.OpenBao.LoginTokenFile = bao.Address(), file }
}

// TestLabelsNeedAPolicy: a device that claims a label that its policy does not
// allow does not get what is meant for those that have it; an admin's label counts.
func TestLabelsNeedAPolicy(t *testing.T) {
	w := newWorld(t)
	bao, with := w.policies()
	w.must(bao.PutSecret(t.Context(), "fleet", "devices/pi-1", map[string]any{"labels": map[string]any{"group": []string{"a"}, "site": []string{"*"}}}))
	w.must(bao.PutSecret(t.Context(), "fleet", "devices/pi-2", map[string]any{"labels": map[string]any{"site": []string{"*"}}}))
	w.startConverged(with)
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	for _, id := range []string{"pi-1", "pi-2", "pi-3"} { // pi-3 has no policy
		w.announce(wire.DeviceID(id), map[string]string{"group": "a", "site": "berlin"})
	}
	w.awaitDesired("pi-1", d)
	for id, want := range map[string]map[string]string{
		"pi-1": {"group": "a", "site": "berlin"}, "pi-2": {"site": "berlin"}, "pi-3": {},
	} {
		w.eventually("the labels of "+id, func() error {
			device := &v1alpha1.Device{}
			if err := w.api.Get(t.Context(), client.ObjectKey{Name: id}, device); err != nil {
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
			t.Errorf("%s attracted the Deployment", id)
		}
	}
	device := &v1alpha1.Device{}
	w.must(w.api.Get(t.Context(), client.ObjectKey{Name: "pi-2"}, device))
	changed := device.DeepCopy()
	changed.Labels["group"] = "a"
	w.must(w.api.Patch(t.Context(), changed, client.MergeFrom(device)))
	w.awaitDesired("pi-2", d)
	w.announce("pi-2", map[string]string{"group": "b", "site": "paris"})
	w.eventually("pi-2 moved", func() error {
		w.must(w.api.Get(t.Context(), client.ObjectKey{Name: "pi-2"}, device))
		if device.Labels["site"] != "paris" || device.Labels["group"] != "a" {
			return fmt.Errorf("labels are %v", device.Labels)
		}
		return nil
	})
	w.awaitDesired("pi-2", d)
}
