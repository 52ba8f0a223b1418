package roster

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// ReaderRules are what a program needs that reads policies: the operator.
func ReaderRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{APIGroups: []string{v1alpha1.Group}, Resources: []string{resource}, Verbs: []string{"get", "list", "watch"}}}
}

// CalloutRules are what fleet-callout needs: it reads policies, and writes keys of
// devices that brought their tokens. It can neither enrol a device nor end a
// revocation nor replace a key: one that was taken over can let into the policies
// whoever it likes by a token that is out, and no more.
func CalloutRules() []rbacv1.PolicyRule {
	return append(ReaderRules(), rbacv1.PolicyRule{
		APIGroups: []string{v1alpha1.Group}, Resources: []string{resource + "/status"}, Verbs: []string{"update"},
	})
}
