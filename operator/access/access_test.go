package access_test

import (
	"reflect"
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/operator/access"
)

// granted is what a role lets people do, as "verb resource".
func granted(t *testing.T, name string) (all []string) {
	t.Helper()
	for _, role := range access.ClusterRoles() {
		if role.Name != name {
			continue
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					all = append(all, verb+" "+resource)
				}
			}
		}
	}
	if len(all) == 0 {
		t.Fatalf("there is no role %s, or it grants nothing", name)
	}
	return all
}

// TestNothingButResources: everything that a role may name is on a short list, so
// a status, a wildcard, or the right to hand out rights cannot slip in.
func TestNothingButResources(t *testing.T) {
	verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	published := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"fleet-public"}, Verbs: []string{"get"}}
	for _, role := range access.ClusterRoles() {
		if role.AggregationRule != nil {
			t.Errorf("%s takes over the rules of others", role.Name)
		}
		for _, rule := range role.Rules {
			if reflect.DeepEqual(rule, published) {
				continue
			}
			if !slices.Equal(rule.APIGroups, []string{v1alpha1.Group}) || len(rule.NonResourceURLs) != 0 {
				t.Errorf("%s reaches beyond the fleet's resources: %v", role.Name, rule)
			}
			for _, resource := range rule.Resources {
				if resource != "deployments" && resource != "devices" && resource != "devicepolicies" {
					t.Errorf("%s grants %q", role.Name, resource)
				}
			}
			for _, verb := range rule.Verbs {
				if !slices.Contains(verbs, verb) {
					t.Errorf("%s grants the verb %q", role.Name, verb)
				}
			}
		}
	}
}

// TestDevicesStayOutOfNamespaces: what aggregates into the roles of Kubernetes is
// bound in namespaces, and so may name only resources that are in one.
func TestDevicesStayOutOfNamespaces(t *testing.T) {
	scope := map[string]apiextensionsv1.ResourceScope{}
	for _, definition := range crds.All() {
		scope[definition.Spec.Names.Plural] = definition.Spec.Scope
	}
	aggregated := 0
	for _, role := range access.ClusterRoles() {
		if len(role.Labels) == 0 {
			continue
		}
		aggregated++
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				if scope[resource] != apiextensionsv1.NamespaceScoped {
					t.Errorf("%s aggregates, and names %s, which are %s", role.Name, resource, scope[resource])
				}
			}
		}
	}
	if aggregated != 3 {
		t.Errorf("%d roles aggregate, want those for view, edit and admin", aggregated)
	}
}

// TestRolesGrow: each role of a pair has all that the lesser one has, and more.
func TestRolesGrow(t *testing.T) {
	for _, pair := range [][2]string{{access.View, access.Edit}, {access.Edit, access.Admin}, {access.DevicesView, access.DevicesAdmin}, {access.DevicesView, access.Enroll}} {
		lesser, greater := granted(t, pair[0]), granted(t, pair[1])
		for _, right := range lesser {
			if !slices.Contains(greater, right) {
				t.Errorf("%s may %s, and %s may not", pair[0], right, pair[1])
			}
		}
		if len(greater) <= len(lesser) {
			t.Errorf("%s may no more than %s", pair[1], pair[0])
		}
	}
}
