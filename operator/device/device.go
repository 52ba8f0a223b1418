// Package device is the controller of Devices: it tells the engine which devices
// exist, which labels they carry and until when they are held, whoever wrote that. It
// never writes a Device; the engine does that, from what the devices report.
package device

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/engine"
)

// Reconciler handles one Device at a time. Client reads from a cache.
type Reconciler struct {
	Client client.Reader
	Engine *engine.Engine
}

// Changed admits the changes that route, those of labels, and those of annotations,
// one of which holds the device.
func Changed() predicate.TypedPredicate[*v1alpha1.Device] {
	return predicate.Or(
		predicate.TypedPredicate[*v1alpha1.Device](predicate.TypedLabelChangedPredicate[*v1alpha1.Device]{}),
		predicate.TypedAnnotationChangedPredicate[*v1alpha1.Device]{},
	)
}

// Rules is what the controller may do in the cluster.
func Rules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{APIGroups: []string{v1alpha1.Group}, Resources: []string{"devices"}, Verbs: []string{"get", "list", "watch"}}}
}

// Reconcile tells the engine what the Device is like, or that it is gone.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	id, err := wire.ParseDeviceID(req.Name)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(err) // the schema admits no such name
	}
	device := &v1alpha1.Device{}
	err = r.Client.Get(ctx, req.NamespacedName, device)
	if err == nil {
		r.Engine.SetDevice(id, device)
		return reconcile.Result{}, nil
	}
	if !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("reading device %q: %w", id, err)
	}
	device.Name = req.Name
	gone, err := r.Engine.Gone(ctx, device)
	if gone {
		r.Engine.RemoveDevice(id)
	}
	return reconcile.Result{}, err // when it is there, the cache is behind and will tell
}
