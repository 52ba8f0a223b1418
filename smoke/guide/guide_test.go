// Package guide_test does what docs/guide-zitadel-openbao.md says, step by step:
// its blocks are run as they stand, but for addresses and paths. The product's
// programs and nats-server are real; Zitadel is played by its own library, OpenBao
// by a server with its API, and Kubernetes, which issues the tokens of service
// accounts, by another provider.
package guide_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/program"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
)

func TestMain(m *testing.M) {
	played, found := map[string]func([]string) error{"bao": bao, "curl": curl}[filepath.Base(os.Args[0])]
	if !found {
		os.Exit(m.Run())
	}
	if err := played(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(2)
	}
}

// curl plays `curl -s URL`, which a machine that runs tests need not have.
func curl(args []string) error {
	if len(args) != 2 || args[0] != "-s" {
		return fmt.Errorf("want -s and a URL, have %q", args)
	}
	response, err := http.Get(args[1])
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

// TestGuide follows the guide from its first step to its last.
func TestGuide(t *testing.T) {
	g := newGuide(t)
	g.follow("# Devices that log in")

	machine, err := g.zitadel.AddMachine(oidc.Machine{Name: "device-pi-4", Roles: []string{"device"}, RoleClaims: oidc.ProjectRoleMap})
	g.must(err)
	g.write("/etc/fleet-agent/key.json", machine.KeyJSON)
	g.follow("## 1. Zitadel")

	g.writeAccountTokens()
	g.follow("## 2. OpenBao")
	g.follow("### Secrets of Deployments")
	g.follow("### People")
	g.checkPolicies()
	g.follow("## 3. The policy of a device")
	g.checkDevicePolicy()

	g.follow("## 4. Keys for the broker")
	for _, name := range []string{"callout-issuer", "callout-x", "callout"} {
		g.copy(name+".seed", "/etc/fleet-callout/"+name+".seed")
	}
	g.copy("operator.seed", "/etc/fleet-operator/operator.seed")
	g.copy("signing.seed", "/etc/fleet-operator/signing.seed")
	g.follow("## 5. The broker")
	g.startBroker()
	g.follow("## 6. fleet-callout")
	callout := g.startCallout()
	g.follow("## 7. The operator")
	g.checkOperator()
	g.follow("## 8. The device")
	g.awaitCheck("ok    broker", "with TLS, with a token of "+g.zitadel.Issuer())
	g.checkIsolation()
	g.checkSecrets()

	g.follow("## 9. Revoke it")
	g.checkRevocation()
	g.checkMishaps(callout)
	g.allFollowed()
}

// checkPolicies: the rules of the guide are those that the tests of the programs
// run with, and those that package secret makes.
func (g *guide) checkPolicies() {
	g.Helper()
	for name, want := range map[string]string{
		"fleet-callout": policy.CalloutRules("fleet"), "fleet-operator": policy.ReaderRules("fleet") + secret.OperatorRules(),
		"fleet-people": policy.PeopleRules("fleet"), secret.DevicePolicy: secret.DeviceRules("fleet"),
	} {
		got, err := g.admin.Sys().GetPolicyWithContext(g.Context(), name)
		g.must(err)
		if diff := cmp.Diff(want, got); diff != "" {
			g.Errorf("the policy %s (-what the programs are tested with +guide):\n%s", name, diff)
		}
	}
}

// checkDevicePolicy: what the guide writes is a policy, and means what it says.
func (g *guide) checkDevicePolicy() {
	g.Helper()
	p := g.policies("fleet-callout")
	decided, err := p.Policy(g.Context(), "pi-4")
	g.must(err)
	if !decided.Allows("group", "b") || decided.Allows("group", "c") || !decided.Allows("site", "berlin") || !decided.From("192.0.2.9") || decided.From("198.51.100.1") {
		g.Errorf("the policy is %+v", decided)
	}
	if _, err := p.Policy(g.Context(), "pi-5"); !errors.Is(err, policy.ErrNone) {
		g.Errorf("the policy of another device: %v", err)
	}
}

// checkOperator: its configuration is one, it gets at the policies with it, and
// the broker lets it in.
func (g *guide) checkOperator() {
	g.Helper()
	c, err := program.ReadConfig(g.path("/etc/fleet-operator/config.yaml"), config.OperatorDefaults())
	g.must(err)
	if c.OpenBao.Address == "" || c.OpenBao.LoginRole != config.OperatorDefaults().OpenBao.LoginRole {
		g.Errorf("the operator reads policies so: %+v", c.OpenBao)
	}
	_, err = g.policies("fleet-operator").Policy(g.Context(), "pi-4")
	g.must(err)
	conn := g.connect(c.NATS, c.Credentials)
	if _, err := conn.List(g.Context(), wire.DeviceInfos, "*"); err != nil {
		g.Errorf("the operator reads a bucket: %v", err)
	}
}

// checkSecrets: the device logs in to OpenBao with its own token, and reads what
// its entity names and nothing else.
func (g *guide) checkSecrets() {
	g.Helper()
	ref, err := secret.ParseRef("shop/web/db")
	g.must(err)
	metadata, _ := secret.Grant(nil, []secret.Ref{ref})
	_, err = g.admin.Logical().WriteWithContext(g.Context(), "identity/entity/name/"+secret.EntityName("pi-4"), map[string]any{"metadata": metadata})
	g.must(err)
	g.must(g.bao.PutSecret(g.Context(), "fleet", ref.Path(), map[string]any{"password": "x"}))
	g.must(g.bao.PutSecret(g.Context(), "fleet", "secrets/shop/web/other", map[string]any{"password": "y"}))
	anonymous, err := g.bao.Client("")
	g.must(err)
	answer, err := anonymous.Logical().WriteWithContext(g.Context(), "auth/jwt/login", map[string]any{"role": secret.DevicePolicy, "jwt": g.token("device-pi-4", nil)})
	g.must(err)
	device, err := g.bao.Client(answer.Auth.ClientToken)
	g.must(err)
	if _, err := device.KVv2("fleet").Get(g.Context(), ref.Path()); err != nil {
		g.Errorf("reading its secret: %v", err)
	}
	for _, path := range []string{"secrets/shop/web/other", "devices/pi-4"} {
		if _, err := device.KVv2("fleet").Get(g.Context(), path); err == nil {
			g.Errorf("the device reads %s", path)
		}
	}
	if answer.Auth.LeaseDuration > 3600 {
		g.Errorf("the login is good for %d s", answer.Auth.LeaseDuration)
	}
}

// checkRevocation: the section has a block that revokes, and one that takes it
// back, which has been run too; so each is run once more, and looked at.
func (g *guide) checkRevocation() {
	g.Helper()
	blocks := g.blocks("## 9. Revoke it", "sh")
	if len(blocks) != 2 {
		g.Fatalf("%d blocks about revoking, want 2", len(blocks))
	}
	g.shell(blocks[0])
	g.awaitCheck("FAIL  broker", "refused the login")
	g.awaitLog("the device is revoked")
	g.shell(blocks[1])
	g.awaitCheck("ok    broker", "")
}

// mishap is a row of the guide's table: words that it quotes from the callout's
// log, and a token that brings them about.
type mishap struct {
	quoted string
	token  string
}

// checkMishaps brings about what the table says of tokens and policies.
func (g *guide) checkMishaps(callout *replica) {
	g.Helper()
	g.must(g.bao.PutSecret(g.Context(), "fleet", "devices/pi-6", map[string]any{"lables": map[string]any{}}))
	for _, name := range []string{"device-pi-5", "device-pi-6", "pi-4"} {
		_, err := g.zitadel.AddMachine(oidc.Machine{Name: name, Roles: []string{"device"}, RoleClaims: oidc.ProjectRoleMap})
		g.must(err)
	}
	roles := "urn:zitadel:iam:org:project:" + project + ":roles"
	for _, m := range []mishap{
		{"malformed jwt", "an-opaque-token"},
		{"expected audience", g.token("device-pi-4", map[string]any{"aud": []string{"300000000000000009"}})},
		{"issued by a different provider", g.token("device-pi-4", map[string]any{"iss": "https://other.example.com"})},
		{`claim "urn:zitadel:iam:org:project:`, g.token("device-pi-4", map[string]any{roles: nil})},
		{`claim "client_id" is "pi-4", and a device's begins with "device-"`, g.token("pi-4", nil)},
		{"there is no policy of the device", g.token("device-pi-5", nil)},
		{"malformed policy", g.token("device-pi-6", nil)},
	} {
		if !strings.Contains(g.text, m.quoted) {
			g.Errorf("the guide does not quote %q", m.quoted)
		}
		if err := g.login(m.token); err == nil {
			g.Errorf("%s: it gets in", m.quoted)
		}
		g.awaitLog(m.quoted)
	}
	anonymous, err := g.bao.Client("")
	g.must(err)
	elsewhere, err := g.cluster.Token(map[string]any{"sub": "system:serviceaccount:fleet-system:fleet-callout", "aud": []string{g.cluster.Issuer()}})
	g.must(err)
	const quoted = "invalid audience"
	_, err = anonymous.Logical().WriteWithContext(g.Context(), "auth/kubernetes/login", map[string]any{"role": "fleet-callout", "jwt": elsewhere})
	if err == nil || !strings.Contains(err.Error(), quoted) || !strings.Contains(g.text, quoted) {
		g.Errorf("a token for another audience, which the guide quotes as %q: %v", quoted, err)
	}
	callout.Stop(0)
	if err := g.login(g.token("device-pi-4", nil)); err == nil {
		g.Error("a device gets in without a callout")
	}
}
