package operator_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/openbao"
)

// entity makes OpenBao know a device that logs in there.
func (w *world) entity(bao *openbao.Fleet, id wire.DeviceID) {
	w.Helper()
	admin, err := bao.Client(bao.RootToken())
	w.must(err)
	_, err = admin.Logical().WriteWithContext(w.Context(), "identity/entity/name/"+secret.EntityName(id), nil)
	w.must(err)
}

// awaitGrants waits until the device may read exactly these secrets.
func (w *world) awaitGrants(bao *openbao.Fleet, id wire.DeviceID, refs ...secret.Ref) {
	w.Helper()
	admin, err := bao.Client(bao.RootToken())
	w.must(err)
	want, _ := secret.Grant(nil, refs)
	w.eventually(fmt.Sprintf("%s may read %v", id, refs), func() error {
		entity, err := admin.Logical().ReadWithContext(w.Context(), "identity/entity/name/"+secret.EntityName(id))
		if err != nil {
			return err
		}
		got := map[string]string{}
		metadata, _ := entity.Data["metadata"].(map[string]any)
		for key, value := range metadata {
			got[key] = fmt.Sprint(value)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("metadata (-want +got):\n%s", diff)
		}
		return nil
	})
}

// TestSecretsAreGranted: a device may read what its Deployments name, and no
// longer than they are its own; over a restart, an outage of OpenBao, and somebody
// who meddles.
func TestSecretsAreGranted(t *testing.T) {
	w := newWorld(t)
	bao, with := w.policies()
	short := func(r *running) { r.config.AuditInterval = config.Duration(time.Second) }
	for _, id := range []wire.DeviceID{"pi-1", "pi-2"} {
		w.must(bao.PutSecret(t.Context(), "fleet", "devices/"+string(id), map[string]any{"labels": map[string]any{"group": []string{"*"}}}))
	}
	w.entity(bao, "pi-1")
	d := deployment(w.namespace(), "web", "a")
	d.Spec.Score.PodmanV0.Services[0].Secrets = []score.Secret{
		{Name: "db", Key: "user", Env: "DB_USER"}, {Name: "db", Key: "password", File: "/run/secrets/db"}, {Name: "api", Key: "token", Env: "TOKEN"},
	}
	id := wire.DeploymentID{Namespace: d.Namespace, Name: d.Name}
	db, api := secret.Ref{Deployment: id, Name: "db"}, secret.Ref{Deployment: id, Name: "api"}
	r := w.startConverged(with, short)
	w.announce("pi-1", map[string]string{"group": "a"})
	w.announce("pi-2", map[string]string{"group": "a"})
	w.must(w.api.Create(t.Context(), d))
	w.awaitGrants(bao, "pi-1", db, api)
	w.awaitDesired("pi-1", d)
	// One that was not enrolled to log in is told of, and granted when it is.
	r.waitLog("OpenBao does not know it")
	w.entity(bao, "pi-2")
	w.awaitGrants(bao, "pi-2", db, api)

	change := func(id wire.DeviceID, group string) {
		device := &v1alpha1.Device{}
		w.must(w.api.Get(t.Context(), client.ObjectKey{Name: string(id)}, device))
		changed := device.DeepCopy()
		changed.Labels["group"] = group
		w.must(w.api.Patch(t.Context(), changed, client.MergeFrom(device)))
	}
	// Changed while OpenBao is down, and while no operator runs.
	bao.Kill()
	change("pi-2", "b")
	r.waitLog("cannot say in OpenBao")
	w.must(bao.Restart(t.Context()))
	w.awaitGrants(bao, "pi-2")
	r.stop()
	change("pi-2", "a")
	latest := &v1alpha1.Deployment{}
	w.must(w.api.Get(t.Context(), client.ObjectKeyFromObject(d), latest))
	latest.Spec.Score.PodmanV0.Services[0].Secrets = d.Spec.Score.PodmanV0.Services[0].Secrets[:2]
	w.must(w.api.Update(t.Context(), latest))
	w.startConverged(with, short)
	w.awaitGrants(bao, "pi-1", db)
	w.awaitGrants(bao, "pi-2", db)
	// Somebody widens it, and an audit takes that back.
	admin, err := bao.Client(bao.RootToken())
	w.must(err)
	_, err = admin.Logical().WriteWithContext(t.Context(), "identity/entity/name/"+secret.EntityName("pi-1"),
		map[string]any{"metadata": map[string]string{"secret00": "other/web/db", "secret07": "other/web/api"}})
	w.must(err)
	w.awaitGrants(bao, "pi-1", db)
	w.must(w.api.Delete(t.Context(), latest))
	w.awaitGrants(bao, "pi-1")
	w.awaitGrants(bao, "pi-2")
}
