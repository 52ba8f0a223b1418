package secret_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func ref(name string) secret.Ref {
	return secret.Ref{Deployment: wire.DeploymentID{Namespace: "shop", Name: "web"}, Name: name}
}

func TestGrantReplacesEarlierGrants(t *testing.T) {
	first, over := secret.Grant(map[string]string{"team": "a"}, []secret.Ref{ref("db"), ref("api"), ref("db")})
	if over != 0 {
		t.Errorf("%d over", over)
	}
	if diff := cmp.Diff(map[string]string{"team": "a", "secret00": "shop/web/api", "secret01": "shop/web/db"}, first); diff != "" {
		t.Error(diff)
	}
	second, _ := secret.Grant(first, []secret.Ref{ref("db")})
	if diff := cmp.Diff(map[string]string{"team": "a", "secret00": "shop/web/db"}, second); diff != "" {
		t.Error(diff)
	}
}

func TestGrantIsBounded(t *testing.T) {
	var refs []secret.Ref
	for n := range secret.MaxPerDevice + 2 {
		refs = append(refs, ref(fmt.Sprintf("s%03d", n)))
	}
	metadata, over := secret.Grant(nil, refs)
	if len(metadata) != secret.MaxPerDevice || over != 2 {
		t.Errorf("%d granted, %d over", len(metadata), over)
	}
}

func TestParseRef(t *testing.T) {
	got, err := secret.ParseRef("shop/web/db")
	if err != nil || got != ref("db") || got.Path() != "secrets/shop/web/db" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, text := range []string{"", "shop/web", "shop/web/db/more", "shop/web/+", "shop/*/db", "shop//db", "shop/web/..", "Shop/web/db"} {
		if got, err := secret.ParseRef(text); err == nil {
			t.Errorf("%q is taken as %v", text, got)
		}
	}
}

func TestDeviceRulesHaveEverySlot(t *testing.T) {
	rules := secret.DeviceRules("fleet")
	metadata, _ := secret.Grant(nil, []secret.Ref{ref("db")})
	for key := range metadata {
		if !strings.Contains(rules, `path "fleet/data/secrets/{{identity.entity.metadata.`+key+`}}" { capabilities = ["read"] }`) {
			t.Errorf("no rule for %s in\n%s", key, rules)
		}
	}
	if n := strings.Count(rules, "path"); n != secret.MaxPerDevice {
		t.Errorf("%d rules", n)
	}
}
