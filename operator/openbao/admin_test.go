package openbao_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openbao/openbao/api/v2"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/openbao"
)

// person is an Admin with the documented rights and no others.
func (w *world) person() *openbao.Admin {
	w.Helper()
	token, err := w.server.Person(w.Context())
	w.must(err)
	w.Setenv("BAO_TOKEN", token)
	a, err := openbao.NewAdmin(w.server.Address(), "fleet")
	w.must(err)
	w.Cleanup(a.Close)
	return a
}

func (w *world) records(a *openbao.Admin, id wire.DeviceID) policy.Records {
	w.Helper()
	r, err := a.Records(w.Context(), id)
	w.must(err)
	return r
}

// TestAdminWritesOnce: whoever has read what is no longer so writes nothing, and
// of what is removed nothing is left but that.
func TestAdminWritesOnce(t *testing.T) {
	w := newWorld(t)
	a := w.person()
	labels := policy.Policy{Labels: map[string][]string{"site": {"berlin"}}}
	enrolment := policy.NewToken("pi-1").Enrolment(time.Now().Add(time.Hour))
	if r := w.records(a, "pi-1"); r.Policy != nil || r.Version != "" || r.Enrolment != nil || r.Revocation != nil {
		t.Errorf("of a device that never was: %+v", r)
	}
	w.must(a.PutPolicy(t.Context(), "pi-1", labels, ""))
	w.must(a.PutEnrolment(t.Context(), "pi-1", enrolment))
	revocation := policy.Revocation{Reason: "lost", By: "ana", At: time.Now().UTC().Round(0), Passing: true}
	w.must(a.PutRevocation(t.Context(), "pi-1", revocation, ""))
	if diff := cmp.Diff(policy.Records{Policy: &labels, Version: "1", Enrolment: &enrolment, Revocation: &revocation, RevocationVersion: "1"}, w.records(a, "pi-1")); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	for what, err := range map[string]error{
		"a policy":     a.PutPolicy(t.Context(), "pi-1", policy.Policy{}, ""),
		"an enrolment": a.PutEnrolment(t.Context(), "pi-1", enrolment),
		"a revocation": a.PutRevocation(t.Context(), "pi-1", policy.Revocation{}, ""),
	} {
		if !errors.Is(err, policy.ErrChanged) {
			t.Errorf("%s was written over another: %v", what, err)
		}
	}

	w.must(a.PutPolicy(t.Context(), "pi-1", policy.Policy{}, "1"))
	w.must(a.DestroyPolicy(t.Context(), "pi-1", "2"))
	w.must(a.DropEnrolment(t.Context(), "pi-1"))
	w.must(a.DropRevocation(t.Context(), "pi-1"))
	if diff := cmp.Diff(policy.Records{Version: "2"}, w.records(a, "pi-1")); diff != "" {
		t.Errorf("after all of it was removed (-want +read):\n%s", diff)
	}
	if err := a.PutPolicy(t.Context(), "pi-1", labels, ""); !errors.Is(err, policy.ErrChanged) {
		t.Errorf("the removed policy was written again by who had not seen it: %v", err)
	}
	root, err := w.server.Client(w.server.RootToken())
	w.must(err)
	for version := 1; version <= 2; version++ {
		found, err := root.Logical().ReadWithDataWithContext(t.Context(), "fleet/data/devices/pi-1", map[string][]string{"version": {fmt.Sprint(version)}})
		w.must(err)
		if found == nil || found.Data["data"] != nil {
			t.Errorf("version %d of the removed policy: %+v", version, found)
		}
	}
	// A second time is no error.
	w.must(a.DestroyPolicy(t.Context(), "pi-1", "2"))
	w.must(a.DestroyPolicy(t.Context(), "pi-2", ""))
	w.must(a.DropEnrolment(t.Context(), "pi-1"))
	w.must(a.DropRevocation(t.Context(), "pi-1"))
	w.must(a.DropEntity(t.Context(), "pi-1"))
}

// TestAdminTellsRevocationOfBrokenPolicy: a policy that nobody can read does not
// keep a device from being revoked.
func TestAdminTellsRevocationOfBrokenPolicy(t *testing.T) {
	w := newWorld(t)
	a := w.person()
	w.put("devices/pi-1", map[string]any{"lables": map[string]any{}})
	w.put("revoked/pi-1", map[string]any{"reason": 7})
	r, err := a.Records(t.Context(), "pi-1")
	if !errors.Is(err, policy.ErrMalformed) || r.Revocation == nil || r.RevocationVersion != "1" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// key is a device's.
const key = "UBUUX6PETB2DPTXVTQLDLBZLT5G2C67HWC456RLPH6RIQTS5G3PMCTIK"

// TestCalloutCannotDecide: the program that lets devices join can neither enrol
// one nor end a revocation.
func TestCalloutCannotDecide(t *testing.T) {
	w := newWorld(t)
	a := w.person()
	w.must(a.PutPolicy(t.Context(), "pi-1", policy.Policy{}, ""))
	w.ready()
	for what, err := range map[string]error{
		"wrote the policy of a device that has none": w.store.Admit(t.Context(), "pi-2", key, policy.Records{Policy: &policy.Policy{}}),
		"wrote over a policy that it had not read":   w.store.Admit(t.Context(), "pi-1", key, policy.Records{Policy: &policy.Policy{}}),
	} {
		if err == nil {
			t.Errorf("it %s", what)
		}
	}
	w.must(w.store.Admit(t.Context(), "pi-1", key, policy.Records{Policy: &policy.Policy{}, Version: "1"}))
	root, err := w.server.Client(w.server.RootToken())
	w.must(err)
	token, err := root.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"fleet-callout"}})
	w.must(err)
	program, err := w.server.Client(token.Auth.ClientToken)
	w.must(err)
	if _, err := program.KVv2("fleet").Put(t.Context(), "enrolments/pi-1", map[string]any{"sha256": ""}); err == nil {
		t.Error("it gave out a token")
	}
	if _, err := program.KVv2("fleet").Put(t.Context(), "revoked/pi-1", map[string]any{}); err == nil {
		t.Error("it revoked a device")
	}
	if err := program.KVv2("fleet").DeleteMetadata(t.Context(), "revoked/pi-1"); err == nil {
		t.Error("it ended a revocation")
	}
	if err := program.KVv2("fleet").DeleteMetadata(t.Context(), "devices/pi-1"); err == nil {
		t.Error("it removed a policy")
	}
}

// TestForgetsWhoIsRevoked: what was read of a device before it was revoked does
// not count when it is let in again, with another key: not even in an outage.
func TestForgetsWhoIsRevoked(t *testing.T) {
	w := newWorld(t)
	a := w.person()
	w.must(a.PutPolicy(t.Context(), "pi-1", policy.Policy{NKey: key}, ""))
	w.ready()
	_, err := w.policy("pi-1")
	w.must(err)
	isRevoked := func(id wire.DeviceID) func() bool {
		return func() bool { _, err := w.policy(id); return errors.Is(err, policy.ErrRevoked) }
	}
	w.must(a.PutRevocation(t.Context(), "pi-1", policy.Revocation{}, ""))
	w.eventually("it is revoked", isRevoked("pi-1"))
	w.must(a.DropRevocation(t.Context(), "pi-1"))
	w.must(a.PutRevocation(t.Context(), "pi-2", policy.Revocation{}, "")) // seen not before that
	w.eventually("another one is revoked", isRevoked("pi-2"))
	w.server.Kill()
	if p, err := w.policy("pi-1"); err == nil || errors.Is(err, policy.ErrRevoked) {
		t.Errorf("got %+v, %v", p, err)
	}
}

// TestEntityInheritsNothing: OpenBao knows a device by its name at the provider,
// and whoever is enrolled under its id again may read nothing that it could.
func TestEntityInheritsNothing(t *testing.T) {
	d := newDevices(t)
	a := d.person()
	ref := secret.Ref{Deployment: wire.DeploymentID{Namespace: "shop", Name: "web"}, Name: "db"}
	d.put(ref.Path(), map[string]any{"password": "x"})
	if err := a.PutEntity(t.Context(), "pi-1", "nowhere", "device-pi-1"); err == nil {
		t.Error("there is a login at a mount that is not there")
	}
	d.must(a.PutEntity(t.Context(), "pi-1", "jwt", "device-pi-1"))
	_, err := d.store.Grant(t.Context(), "pi-1", []secret.Ref{ref})
	d.must(err)
	if !d.reads(d.login("pi-1"), ref.Path()) {
		t.Fatal("it cannot read what was granted: the entity is not the one of its login")
	}
	d.must(a.PutEntity(t.Context(), "pi-1", "jwt", "device-pi-1"))
	if d.reads(d.login("pi-1"), ref.Path()) {
		t.Error("enrolled again it reads what was granted before")
	}
	_, err = d.store.Grant(t.Context(), "pi-1", []secret.Ref{ref})
	d.must(err)
	d.must(a.ClearEntity(t.Context(), "pi-1"))
	d.must(a.ClearEntity(t.Context(), "pi-2")) // none is no error, and makes none
	if d.reads(d.login("pi-1"), ref.Path()) {
		t.Error("after all was taken it reads what was granted before")
	}
	d.must(a.DropEntity(t.Context(), "pi-1"))
	if _, err := d.store.Grant(t.Context(), "pi-2", nil); err != nil && !errors.Is(err, openbao.ErrNoEntity) {
		t.Error(err)
	}
	if _, err := d.store.Grant(t.Context(), "pi-1", []secret.Ref{ref}); !errors.Is(err, openbao.ErrNoEntity) {
		t.Errorf("the entity is still there: %v", err)
	}
}

// TestRecent: a key that was written meanwhile is known to who asks for it.
func TestRecent(t *testing.T) {
	w := newWorld(t)
	a := w.person()
	w.must(a.PutPolicy(t.Context(), "pi-1", policy.Policy{}, ""))
	w.ready()
	_, err := w.policy("pi-1")
	w.must(err)
	w.must(a.PutPolicy(t.Context(), "pi-1", policy.Policy{NKey: key}, "1"))
	w.skew.Add(int64(5 * time.Second))
	if p, err := w.store.Recent(t.Context(), "pi-1"); err != nil || p.NKey != key {
		t.Errorf("got %+v, %v", p, err)
	}
}
