package openbao_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/openbao/openbao/api/v2"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/openbao"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
	server "github.com/nationtech/harmony-fleet/smoke/openbao"
)

// devices is a login for devices beside that of the world's program.
type devices struct {
	*world
	provider *oidc.Provider
	admin    *api.Client
	accessor string
}

func newDevices(t *testing.T) *devices {
	t.Helper()
	d := &devices{world: newWorld(t)}
	var err error
	d.provider, err = oidc.Start(t.Context(), oidc.Options{})
	d.must(err)
	t.Cleanup(d.provider.Stop)
	d.admin, err = d.server.Client(d.server.RootToken())
	d.must(err)
	d.must(d.server.WritePolicy(t.Context(), "fleet-callout", policy.ReaderRules("fleet")+secret.OperatorRules()))
	d.must(d.server.WritePolicy(t.Context(), secret.DevicePolicy, secret.DeviceRules("fleet")))
	d.accessor, err = d.server.EnableJWT(t.Context(), "jwt", server.Issuer{PublicKeys: []string{string(d.provider.PublicKeyPEM())}})
	d.must(err)
	d.must(d.server.WriteRole(t.Context(), "jwt", secret.DevicePolicy, server.Role{
		Audiences: []string{"fleet"}, UserClaim: "client_id", Policies: []string{secret.DevicePolicy},
	}))
	d.ready()
	return d
}

// enrol makes the entity by which OpenBao knows the device.
func (d *devices) enrol(id wire.DeviceID) {
	d.Helper()
	entity, err := d.admin.Logical().WriteWithContext(d.Context(), "identity/entity/name/"+secret.EntityName(id), map[string]any{"metadata": map[string]string{"team": "a"}})
	d.must(err)
	_, err = d.admin.Logical().WriteWithContext(d.Context(), "identity/entity-alias", map[string]any{
		"name": secret.EntityName(id), "canonical_id": entity.Data["id"], "mount_accessor": d.accessor,
	})
	d.must(err)
}

// login is a client with the rights of the device.
func (d *devices) login(id wire.DeviceID) *api.Client {
	d.Helper()
	jwt, err := d.provider.Token(map[string]any{"client_id": secret.EntityName(id), "aud": "fleet"})
	d.must(err)
	anonymous, err := d.server.Client("")
	d.must(err)
	answer, err := anonymous.Logical().WriteWithContext(d.Context(), "auth/jwt/login", map[string]any{"role": secret.DevicePolicy, "jwt": jwt})
	d.must(err)
	client, err := d.server.Client(answer.Auth.ClientToken)
	d.must(err)
	return client
}

// reads reports whether the client may read the secret.
func (d *devices) reads(client *api.Client, path string) bool {
	d.Helper()
	_, err := client.KVv2("fleet").Get(d.Context(), path)
	var refused *api.ResponseError
	if err != nil && (!errors.As(err, &refused) || refused.StatusCode != 403) {
		d.Fatal(err)
	}
	return err == nil
}

// TestGrant: a device reads what it is granted, from the moment on, over logins
// that it has already, and nothing of another device or Deployment.
func TestGrant(t *testing.T) {
	d := newDevices(t)
	shop := wire.DeploymentID{Namespace: "shop", Name: "web"}
	db, key := secret.Ref{Deployment: shop, Name: "db"}, secret.Ref{Deployment: shop, Name: "api"}
	other := secret.Ref{Deployment: wire.DeploymentID{Namespace: "shop", Name: "other"}, Name: "db"}
	all := []secret.Ref{db, key, other}
	for _, ref := range all {
		d.put(ref.Path(), map[string]any{"password": "s3cret"})
	}
	d.put("devices/pi-1", map[string]any{})
	d.enrol("pi-1")
	d.enrol("pi-2")
	one, two := d.login("pi-1"), d.login("pi-2")
	for _, step := range []struct{ one, two []secret.Ref }{
		{nil, nil}, {[]secret.Ref{db, key}, nil}, {[]secret.Ref{db, key}, []secret.Ref{other}}, {[]secret.Ref{key}, all}, {nil, nil},
	} {
		for id, refs := range map[wire.DeviceID][]secret.Ref{"pi-1": step.one, "pi-2": step.two} {
			over, err := d.store.Grant(t.Context(), id, refs)
			if d.must(err); over != 0 {
				t.Errorf("%d over", over)
			}
		}
		for _, ref := range all {
			for _, side := range []struct {
				client  *api.Client
				granted []secret.Ref
			}{{one, step.one}, {two, step.two}} {
				if got, want := d.reads(side.client, ref.Path()), slices.Contains(side.granted, ref); got != want {
					t.Errorf("granted %v: reads %v is %v", side.granted, ref, got)
				}
			}
		}
	}
	for _, path := range []string{"devices/pi-1", "secrets/shop/web", "secrets"} {
		if d.reads(one, path) {
			t.Errorf("a device reads %s", path)
		}
	}
	entity, err := d.admin.Logical().ReadWithContext(t.Context(), "identity/entity/name/"+secret.EntityName("pi-1"))
	if d.must(err); fmt.Sprint(entity.Data["metadata"]) != "map[team:a]" {
		t.Errorf("others' metadata is gone: %v", entity.Data["metadata"])
	}
}

// TestGrantOfUnknown: there is nothing to grant to a device that OpenBao does not
// know, and nobody is made.
func TestGrantOfUnknown(t *testing.T) {
	d := newDevices(t)
	db := secret.Ref{Deployment: wire.DeploymentID{Namespace: "shop", Name: "web"}, Name: "db"}
	if _, err := d.store.Grant(t.Context(), "pi-1", []secret.Ref{db}); !errors.Is(err, openbao.ErrNoEntity) {
		t.Errorf("got %v", err)
	}
	_, err := d.store.Grant(t.Context(), "pi-1", nil)
	d.must(err)
	entity, err := d.admin.Logical().ReadWithContext(t.Context(), "identity/entity/name/"+secret.EntityName("pi-1"))
	if d.must(err); entity != nil {
		t.Errorf("there is %v", entity.Data)
	}
}

// TestOperatorRules: what the operator may do in OpenBao gives a device nothing
// but secrets of Deployments, and itself nothing.
func TestOperatorRules(t *testing.T) {
	d := newDevices(t)
	d.must(d.server.WritePolicy(t.Context(), "everything", `path "*" { capabilities = ["read", "update", "create"] }`))
	d.must(d.server.WritePolicy(t.Context(), "operator", secret.OperatorRules()))
	d.put("elsewhere/key", map[string]any{"a": "b"})
	d.put("secrets/shop/web/db", map[string]any{"a": "b"})
	d.enrol("pi-1")
	token, err := d.admin.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"operator"}})
	d.must(err)
	operator, err := d.server.Client(token.Auth.ClientToken)
	d.must(err)
	entity := "identity/entity/name/" + secret.EntityName("pi-1")
	for path, body := range map[string]map[string]any{
		entity:                          {"policies": []string{"everything"}},
		entity + " ":                    {"metadata": map[string]string{}, "policies": "everything"},
		"identity/entity/name/somebody": {"metadata": map[string]string{}},
		"identity/entity-alias":         {"name": "device-pi-1"},
		"sys/policies/acl/fleet-device": {"policy": `path "*" { capabilities = ["read"] }`},
	} {
		if _, err := operator.Logical().WriteWithContext(t.Context(), path, body); err == nil {
			t.Errorf("%s takes %v", path, body)
		}
	}
	if d.reads(operator, "secrets/shop/web/db") {
		t.Error("the operator reads secrets")
	}
	device := d.login("pi-1")
	for _, value := range []string{"+/+/+", "*", "../elsewhere/key", "shop/web/+"} {
		_, err := operator.Logical().WriteWithContext(t.Context(), entity, map[string]any{"metadata": map[string]string{"secret00": value}})
		d.must(err)
		if d.reads(device, "elsewhere/key") || d.reads(device, "devices/pi-1") {
			t.Errorf("%q opens what is no secret of a Deployment", value)
		}
	}
}
