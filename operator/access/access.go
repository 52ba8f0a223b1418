// Package access is what people may do with the fleet's resources, as ClusterRoles
// to bind their groups to. It never binds anybody, and it grants nothing but what
// a role names: no wildcard, no status, no secrets, and no right to hand out
// rights. What the operator itself may do is said beside the code that does it.
package access

import (
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// Names of the roles. The first three are about Deployments and are bound in a
// namespace, or in all of them; the others are about Devices and who may be one,
// which are in no namespace, and mean something in a ClusterRoleBinding alone.
const (
	View         = "fleet-view"
	Edit         = "fleet-edit"
	Admin        = "fleet-admin"
	DevicesView  = "fleet-devices-view"
	DevicesAdmin = "fleet-devices-admin"
	Enroll       = "fleet-enroll"
)

// aggregateTo is followed by the name of the role of Kubernetes that takes over
// the rules of a role with this label: view, edit or admin. edit takes over view,
// and admin takes over edit, so one label is enough.
const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

// ClusterRoles returns every role, made anew.
//
// Nobody is granted a status: there the operator alone says what it saw, and
// fleet-callout with which key a device joined. Nobody is granted deployments/finalizers, which only a
// controller that owns objects needs. Who may update a Deployment can take its
// finalizer off, as with every resource of Kubernetes; the operator then removes
// the desired state after the fact.
//
// No role for Devices aggregates. A rule for a resource without a namespace
// grants nothing in a RoleBinding, and `kubectl auth can-i` would say yes all the
// same; and labels of Devices decide what runs where for every namespace.
func ClusterRoles() []*rbacv1.ClusterRole {
	return []*rbacv1.ClusterRole{
		role(View, "view", deployments(read())),
		role(Edit, "edit", deployments(read(), write())),
		// One request that takes everything off all devices of a namespace is not
		// everyday work; kubectl deletes one by one.
		role(Admin, "admin", deployments(read(), write(), []string{"deletecollection"})),
		// A DevicePolicy tells nothing that is secret: of a token its hash.
		role(DevicesView, "", devices(read()), policies(read())),
		// RBAC cannot tell labels from the rest of a Device; the operator writes the
		// inventory again when the device reports it. Devices are created by the
		// operator alone. Deleting one takes all Deployments from the device, which
		// a label can do too.
		role(DevicesAdmin, "", devices(read(), []string{"update", "patch", "delete"}), policies(read())),
		// Who enrols devices decides who is of the fleet. Removing one deletes its Device.
		role(Enroll, "", policies(read(), write()), devices(read(), []string{"delete"}), rbacv1.PolicyRule{
			APIGroups: []string{corev1.GroupName}, Resources: []string{"configmaps"}, ResourceNames: []string{config.PublishedName}, Verbs: []string{"get"},
		}),
	}
}

func read() []string { return []string{"get", "list", "watch"} }

func write() []string { return []string{"create", "update", "patch", "delete"} }

func deployments(verbs ...[]string) rbacv1.PolicyRule { return rule("deployments", verbs) }

func devices(verbs ...[]string) rbacv1.PolicyRule { return rule("devices", verbs) }

func policies(verbs ...[]string) rbacv1.PolicyRule { return rule("devicepolicies", verbs) }

func rule(resource string, verbs [][]string) rbacv1.PolicyRule {
	r := rbacv1.PolicyRule{APIGroups: []string{v1alpha1.Group}, Resources: []string{resource}}
	for _, v := range verbs {
		r.Verbs = append(r.Verbs, v...)
	}
	return r
}

// role is complete in itself: who is bound to it needs no other to see what it
// lets them change.
func role(name, aggregatedBy string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	c := &rbacv1.ClusterRole{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Rules:      rules,
	}
	if aggregatedBy != "" {
		c.Labels = map[string]string{aggregateTo + aggregatedBy: "true"}
	}
	return c
}
