package access_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
)

// What people ask for.
const (
	fleetAPI  = "/apis/" + v1alpha1.Group + "/v1alpha1"
	berlin    = fleetAPI + "/namespaces/berlin/deployments"
	hamburg   = fleetAPI + "/namespaces/hamburg/deployments"
	devices   = fleetAPI + "/devices"
	policies  = fleetAPI + "/devicepolicies"
	rbac      = "/apis/rbac.authorization.k8s.io/v1"
	berlinAPI = "/api/v1/namespaces/berlin"

	pause       = `{"spec":{"paused":true}}`
	relabel     = `{"metadata":{"labels":{"site":"hamburg"}}}`
	noFinalizer = `{"metadata":{"finalizers":null}}`
	allReady    = `{"status":{"aggregate":{"matchedDeviceCount":9,"succeeded":9,"failed":0,"pending":0,"unreachable":0}}}`
	reachable   = `{"status":{"conditions":[]}}`
	newPolicy   = `{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"DevicePolicy","metadata":{"name":"pi"},"spec":{"allow":{}}}`
	newDevice   = `{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"Device","metadata":{"name":"made-up"}}`
)

// TestPeople is the whole way: a provider's token, the API server that the guide
// configures, its bindings, and these roles. One cluster serves every part.
func TestPeople(t *testing.T) {
	c := start(t)
	// Roles and bindings count a moment after they are written.
	c.await(c.person("fleet-admins"), request{http.MethodGet, devices, "", ""}, http.StatusOK)
	c.await(c.person("fleet-admins"), request{http.MethodGet, policies, "", ""}, http.StatusOK)
	c.await(c.person("hamburg-view"), request{http.MethodGet, hamburg, "", ""}, http.StatusOK)
	c.await(c.person("hamburg-edit"), request{http.MethodPatch, hamburg + "/web?dryRun=All", pause, ""}, http.StatusOK)
	c.await(c.person("hamburg-admin"), request{http.MethodDelete, hamburg + "?dryRun=All", "", ""}, http.StatusOK)

	part := func(name string, test func(*cluster)) {
		t.Run(name, func(t *testing.T) {
			here := *c
			here.T = t
			test(&here)
		})
	}
	part("rights", (*cluster).rights)
	part("tokens", (*cluster).tokens)
	part("status", (*cluster).statusByTheFrontDoor)
	part("devices in a RoleBinding", (*cluster).devicesInARoleBinding)
	part("work", (*cluster).work)
}

// right is one request of one person; all that would change something are asked
// as a dry run, which is authorized like any other, so that rows do not depend on
// each other.
type right struct {
	who  string // the one role that the person has
	ask  request
	want int
	why  string
}

func (c *cluster) rights() {
	create := body(deployment("berlin", "new"))
	bind := func(role string) string {
		return `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"mine"},` +
			`"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"` + role + `"},` +
			`"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"oidc:me"}]}`
	}
	const viewer, operator, admin = "fleet-viewers", "fleet-operators-berlin", "fleet-admins"
	for _, r := range []right{
		{viewer, request{"GET", berlin, "", ""}, 200, "this is what a viewer is for"},
		{viewer, request{"GET", berlin + "/web", "", ""}, 200, "one by name too"},
		{viewer, request{"GET", berlin + "?watch=1&timeoutSeconds=1", "", ""}, 200, "kubectl get --watch"},
		{viewer, request{"GET", devices, "", ""}, 200, "by the ClusterRoleBinding of the guide"},
		{viewer, request{"POST", berlin, create, ""}, 403, "a viewer creates nothing"},
		{viewer, request{"PUT", berlin + "/web", c.stored["berlin"], ""}, 403, "nor updates"},
		{viewer, request{"PATCH", berlin + "/web", pause, ""}, 403, "nor patches"},
		{viewer, request{"DELETE", berlin + "/web", "", ""}, 403, "nor deletes"},
		{viewer, request{"PATCH", berlin + "/web/status", allReady, ""}, 403, "nor says how it went"},
		{viewer, request{"GET", hamburg, "", ""}, 403, "another namespace"},
		{viewer, request{"GET", fleetAPI + "/deployments", "", ""}, 403, "all namespaces are more than the bound one"},
		{viewer, request{"PATCH", devices + "/pi", relabel, ""}, 403, "a viewer of Devices does not label"},
		{viewer, request{"GET", policies, "", ""}, 200, "whoever sees devices sees what they may"},
		{viewer, request{"POST", policies, newPolicy, ""}, 403, "a viewer enrols nobody"},
		{viewer, request{"GET", berlinAPI + "/secrets", "", ""}, 403, "nothing but the fleet's resources"},

		{operator, request{"GET", berlin, "", ""}, 200, "what one may change one may see"},
		{operator, request{"POST", berlin, create, ""}, 201, "this is what an operator is for"},
		{operator, request{"PUT", berlin + "/web", c.stored["berlin"], ""}, 200, "kubectl replace"},
		{operator, request{"PATCH", berlin + "/web", pause, ""}, 200, "kubectl apply and patch"},
		{operator, request{"DELETE", berlin + "/web", "", ""}, 200, "kubectl delete"},
		{operator, request{"PATCH", berlin + "/web", noFinalizer, ""}, 200, "metadata of their own: Kubernetes cannot tell it from the rest"},
		{operator, request{"DELETE", berlin, "", ""}, 403, "everything in one request is the admin's"},
		{operator, request{"POST", hamburg, strings.ReplaceAll(create, "berlin", "hamburg"), ""}, 403, "another namespace"},
		{operator, request{"PUT", hamburg + "/web", c.stored["hamburg"], ""}, 403, "another namespace"},
		{operator, request{"PATCH", hamburg + "/web", noFinalizer, ""}, 403, "the finalizer of others"},
		{operator, request{"DELETE", hamburg + "/web", "", ""}, 403, "another namespace"},
		{operator, request{"PATCH", berlin + "/web/status", allReady, ""}, 403, "a forged status"},
		{operator, request{"PUT", berlin + "/web/status", c.stored["berlin"], ""}, 403, "a forged status"},
		{operator, request{"PATCH", berlin + "/web/finalizers", noFinalizer, ""}, 403, "the subresource is for controllers"},
		{operator, request{"GET", devices + "/pi", "", ""}, 200, "who selects sees what is selected"},
		{operator, request{"PATCH", devices + "/pi", relabel, ""}, 403, "labels route for every namespace"},
		{operator, request{"PATCH", devices + "/pi", noFinalizer, ""}, 403, "nor the rest of its metadata"},
		{operator, request{"PATCH", devices + "/pi/status", reachable, ""}, 403, "a forged status"},
		{operator, request{"DELETE", devices + "/pi", "", ""}, 403, "it would take away what others deployed"},
		{operator, request{"POST", policies, newPolicy, ""}, 403, "who is of the fleet others decide"},
		{operator, request{"GET", berlinAPI + "/secrets/password", "", ""}, 403, "nothing but the fleet's resources"},
		{operator, request{"GET", berlinAPI + "/configmaps", "", ""}, 403, "nothing but the fleet's resources"},
		{operator, request{"POST", rbac + "/namespaces/berlin/rolebindings", bind("fleet-view"), ""}, 403, "hands out no rights"},
		{operator, request{"PATCH", rbac + "/clusterroles/fleet-edit", `{"rules":[]}`, ""}, 403, "changes no role"},
		{operator, request{"GET", devices, "", "system:admin"}, 403, "is nobody else"},
		{operator, request{"POST", berlinAPI + "/serviceaccounts/default/token", `{"spec":{}}`, ""}, 403, "makes no tokens"},
		{operator, request{"PATCH", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/devices.fleet.nationtech.io", relabel, ""}, 403, "the schema is the operator's"},

		{admin, request{"GET", fleetAPI + "/deployments", "", ""}, 200, "bound in all namespaces"},
		{admin, request{"PATCH", hamburg + "/web", pause, ""}, 200, "bound in all namespaces"},
		{admin, request{"DELETE", hamburg, "", ""}, 200, "everything of a namespace at once"},
		{admin, request{"PATCH", devices + "/pi", relabel, ""}, 200, "this is what a fleet admin is for"},
		{admin, request{"DELETE", devices + "/pi", "", ""}, 200, "a device that is scrapped"},
		{admin, request{"DELETE", devices, "", ""}, 403, "the whole fleet in one request is nobody's"},
		{admin, request{"POST", devices, newDevice, ""}, 403, "only the operator says which devices there are"},
		{admin, request{"PATCH", devices + "/pi/status", reachable, ""}, 403, "a forged status"},
		{admin, request{"POST", policies, newPolicy, ""}, 201, "this is what enrolling is"},
		{admin, request{"DELETE", policies, "", ""}, 403, "the whole fleet in one request is nobody's"},
		{admin, request{"PATCH", policies + "/pi/status", reachable, ""}, 403, "keys are the callout's to write"},
		{admin, request{"GET", berlinAPI + "/configmaps/fleet-public", "", ""}, 404, "what the operator publishes, wherever that is; here is none"},
		{admin, request{"GET", berlinAPI + "/configmaps/other", "", ""}, 403, "and no other"},
		{admin, request{"PATCH", berlin + "/web/status", allReady, ""}, 403, "a forged status"},
		{admin, request{"GET", berlinAPI + "/secrets", "", ""}, 403, "admin of the fleet, not of the cluster"},
		{admin, request{"POST", rbac + "/clusterrolebindings", `{}`, ""}, 403, "hands out no rights"},

		{"hamburg-view", request{"GET", hamburg, "", ""}, 200, "view of Kubernetes has fleet-view"},
		{"hamburg-view", request{"POST", hamburg, strings.ReplaceAll(create, "berlin", "hamburg"), ""}, 403, "and no more"},
		{"hamburg-view", request{"GET", devices, "", ""}, 403, "Devices are in no namespace"},
		{"hamburg-edit", request{"POST", hamburg, strings.ReplaceAll(create, "berlin", "hamburg"), ""}, 201, "edit of Kubernetes has fleet-edit"},
		{"hamburg-edit", request{"GET", "/api/v1/namespaces/hamburg/secrets", "", ""}, 200, "and what it had: the request for secrets is a right one"},
		{"hamburg-edit", request{"DELETE", hamburg, "", ""}, 403, "but not what only fleet-admin has"},
		{"hamburg-edit", request{"GET", berlin, "", ""}, 403, "in its namespace alone"},
		{"hamburg-edit", request{"PATCH", hamburg + "/web/status", allReady, ""}, 403, "a forged status"},
		{"hamburg-edit", request{"PATCH", devices + "/pi", relabel, ""}, 403, "labels never come with a namespace"},
		{"hamburg-admin", request{"DELETE", hamburg, "", ""}, 200, "admin of Kubernetes has fleet-admin"},
		{"hamburg-admin", request{"PATCH", devices + "/pi", relabel, ""}, 403, "labels never come with a namespace"},
		{"hamburg-admin", request{"POST", rbac + "/namespaces/hamburg/rolebindings", bind("fleet-edit"), ""}, 201, "hands out what it has: the request to bind is a right one"},
		{"hamburg-admin", request{"POST", rbac + "/namespaces/hamburg/rolebindings", bind("fleet-devices-admin"), ""}, 403, "and not what it has not"},
	} {
		if r.ask.method != http.MethodGet {
			r.ask.path += "?dryRun=All"
		}
		if got, answer := c.ask(c.person(r.who), r.ask); got != r.want {
			c.Errorf("%s: %s %s: got %d, want %d (%s): %.300s", r.who, r.ask.method, r.ask.path, got, r.want, r.why, answer)
		}
	}
}

// login is a token and what it is worth when it asks for Devices.
type login struct {
	name, token string
	want        int
}

func (c *cluster) tokens() {
	good := map[string]any{roleClaim: map[string]any{"fleet-viewers": map[string]any{}}}
	with := func(name string, value any) map[string]any {
		claims := map[string]any{roleClaim: good[roleClaim]}
		claims[name] = value
		return claims
	}
	now := time.Now().Unix()
	for _, l := range []login{
		{"of a viewer", c.token(c.zitadel, good), 200},
		{"of a viewer of several groups", c.person("dancers", "fleet-viewers", "singers"), 200},
		{"whose roles are a list", c.token(c.zitadel, with(roleClaim, []string{"fleet-viewers"})), 200},
		{"with a list of groups", c.token(c.plain, map[string]any{"groups": []string{"dancers", "fleet-viewers"}}), 200},

		{"none", "", 401},
		{"no token at all", "nonsense", 401},
		{"expired", c.token(c.zitadel, with("exp", now-60)), 401},
		{"without an end", c.token(c.zitadel, with("exp", nil)), 401},
		{"not valid yet", c.token(c.zitadel, with("nbf", now+3600)), 401},
		{"for another audience", c.token(c.zitadel, with("aud", "300000000000000003")), 401},
		{"for the project alone, as devices have", c.device(), 401},
		{"of a provider that is not configured", c.foreign(nil), 401},
		{"of such a provider, in the name of ours", c.foreign(map[string]any{"iss": c.zitadel.Issuer()}), 401},
		{"with a slash after the issuer", c.token(c.zitadel, with("iss", c.zitadel.Issuer()+"/")), 401},
		{"without a name", c.token(c.zitadel, with("sub", nil)), 401},
		{"whose groups were changed", c.tampered(), 401},
		{"signed with another key", c.forged("RS256", true), 401},
		{"signed with the public key", c.forged("HS256", false), 401},
		{"not signed", c.forged("none", false), 401},

		{"of a person without a group", c.person(), 403},
		{"of a person without the claim", c.token(c.zitadel, nil), 403},
		{"of a group that nobody bound", c.person("dancers"), 403},
		{"with roles of another project", c.token(c.zitadel, map[string]any{
			"urn:zitadel:iam:org:project:300000000000000004:roles": good[roleClaim]}), 403},
		{"with a claim that this provider's groups are not in", c.token(c.zitadel, map[string]any{"groups": []string{"fleet-viewers"}}), 403},
		{"of the group of cluster administrators", c.person("system:masters"), 403},
		{"with that group in a list", c.token(c.plain, map[string]any{"groups": []string{"system:masters"}}), 403},
		{"of a person called as the API server's own", c.token(c.zitadel, map[string]any{"sub": "system:apiserver"}), 403},
		{"of a group spelt as CEL escapes names", c.person("fleet__dash__viewers"), 403},
		{"of a group that has the prefix already", c.person("oidc:fleet-viewers"), 403},
	} {
		if got, answer := c.ask(l.token, request{http.MethodGet, devices, "", ""}); got != l.want {
			c.Errorf("a token %s: got %d, want %d: %.300s", l.name, got, l.want, answer)
		}
	}
	for path, want := range map[string]int{"/readyz": http.StatusOK, "/version": http.StatusUnauthorized} {
		if got, _ := c.ask("", request{http.MethodGet, path, "", ""}); got != want {
			c.Errorf("without a token %s is answered with %d, want %d", path, got, want)
		}
	}
}

// device is the token that a device of the project logs in to the broker with.
func (c *cluster) device() string {
	_, err := c.zitadel.AddMachine(oidc.Machine{Name: "device-pi", Roles: []string{"fleet-viewers"}})
	c.must(err)
	claims, err := c.zitadel.Claims("device-pi")
	c.must(err)
	token, err := c.zitadel.Token(claims)
	c.must(err)
	return token
}

// foreign is a token of a provider that the API server does not know.
func (c *cluster) foreign(claims map[string]any) string {
	certified := httptest.NewTLSServer(nil)
	certified.Close()
	other, err := oidc.Start(c.Context(), oidc.Options{TLS: certified.TLS})
	c.must(err)
	c.Cleanup(other.Stop)
	all := map[string]any{roleClaim: map[string]any{"fleet-viewers": map[string]any{}}}
	for name, value := range claims {
		all[name] = value
	}
	return c.token(other, all)
}

// tampered is a token of a dancer with the claims of an admin.
func (c *cluster) tampered() string {
	dancer, admin := strings.Split(c.person("dancers"), "."), strings.Split(c.person("fleet-admins"), ".")
	return dancer[0] + "." + admin[1] + "." + dancer[2]
}

// forged is a token that names the provider's key and was signed with another, or
// with what everybody knows.
func (c *cluster) forged(algorithm string, other bool) string {
	now := time.Now().Unix()
	payload, err := json.Marshal(map[string]any{
		"iss": c.zitadel.Issuer(), "sub": "me", "aud": application, "iat": now, "exp": now + 600,
		roleClaim: map[string]any{"fleet-admins": map[string]any{}},
	})
	c.must(err)
	var key any
	switch {
	case other:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
		c.must(err)
	case algorithm == "HS256":
		key = c.zitadel.PublicKeyPEM()
	}
	id, _ := c.zitadel.SigningKey()
	token, err := oidc.Sign(map[string]any{"alg": algorithm, "kid": id, "typ": "JWT"}, payload, key)
	c.must(err)
	return token
}

// statusByTheFrontDoor: who may write a Deployment cannot write its status along
// with it.
func (c *cluster) statusByTheFrontDoor() {
	for _, r := range []request{
		{http.MethodPatch, berlin + "/web?dryRun=All", allReady, ""},
		{http.MethodPut, berlin + "/web?dryRun=All", strings.ReplaceAll(c.stored["berlin"], `"pending":3`, `"pending":0`), ""},
	} {
		code, answer := c.ask(c.person("fleet-operators-berlin"), r)
		if code != http.StatusOK {
			c.Fatalf("%s: %d: %s", r.method, code, answer)
		}
		var d v1alpha1.Deployment
		c.must(json.Unmarshal([]byte(answer), &d))
		if d.Status.Aggregate.Pending != 3 {
			c.Errorf("%s of a Deployment wrote its status: %+v", r.method, d.Status)
		}
	}
}

// devicesInARoleBinding is why no role that aggregates names Devices: in a
// namespace the rule grants nothing, and Kubernetes says that it does.
func (c *cluster) devicesInARoleBinding() {
	lost := c.person("hamburg-fleet-devices-view")
	review := request{http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview",` +
		`"spec":{"resourceAttributes":{"namespace":"hamburg","verb":"list","group":"fleet.nationtech.io","resource":"devices"}}}`, ""}
	if code, answer := c.ask(lost, review); code != http.StatusCreated || !strings.Contains(answer, `"allowed":true`) {
		c.Errorf("Kubernetes has become wiser: %d: %s", code, answer)
	}
	if code, answer := c.ask(lost, request{http.MethodGet, devices, "", ""}); code != http.StatusForbidden {
		c.Errorf("a RoleBinding lets people list Devices: %d: %s", code, answer)
	}
}

// work is a day of an operator and an admin, with no dry run.
func (c *cluster) work() {
	operator, admin := c.person("fleet-operators-berlin"), c.person("fleet-admins")
	for _, step := range []struct {
		token string
		ask   request
		want  int
	}{
		{operator, request{http.MethodPost, berlin, body(deployment("berlin", "daily")), ""}, http.StatusCreated},
		{operator, request{http.MethodPatch, berlin + "/daily", pause, ""}, http.StatusOK},
		{operator, request{http.MethodDelete, berlin + "/daily", "", ""}, http.StatusOK},
		{operator, request{http.MethodGet, berlin + "/daily", "", ""}, http.StatusNotFound},
		{admin, request{http.MethodPatch, devices + "/pi", relabel, ""}, http.StatusOK},
	} {
		if got, answer := c.ask(step.token, step.ask); got != step.want {
			c.Fatalf("%s %s: got %d, want %d: %s", step.ask.method, step.ask.path, got, step.want, answer)
		}
	}
	pi := &v1alpha1.Device{}
	c.must(c.api.Get(c.Context(), types.NamespacedName{Name: "pi"}, pi))
	if pi.Labels["site"] != "hamburg" {
		c.Errorf("the labels are %v", pi.Labels)
	}
}
