package engine

import (
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// Rules is what the engine may do in the cluster.
func Rules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{v1alpha1.Group}, Resources: []string{"deployments"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{v1alpha1.Group}, Resources: []string{"devices"}, Verbs: []string{"get", "list", "watch", "create", "patch"}},
		{APIGroups: []string{v1alpha1.Group}, Resources: []string{"deployments/status", "devices/status"}, Verbs: []string{"patch"}},
		{APIGroups: []string{eventsv1.GroupName}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
}
