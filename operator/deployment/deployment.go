// Package deployment is the controller of Deployments: it says in the log which
// ones it acquired, guards their keys with a finalizer, hands them to the engine,
// and lets a deleted one go when none of its keys is left. It never writes a
// status, and it never waits: what is not done yet is looked at again later.
package deployment

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/engine"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

// Bounds of the time until a deleted Deployment is looked at again: a quarter of
// the time that it has waited already.
const (
	minPause = 100 * time.Millisecond
	maxPause = 5 * time.Second
)

// Options of a Reconciler; all are needed.
type Options struct {
	// Client reads from a cache and writes to the API server.
	Client client.Client
	Engine *engine.Engine
	Events events.EventRecorder
	Log    logr.Logger
	// DeleteTimeout is how long a deletion may take before an event says what
	// it waits for.
	DeleteTimeout time.Duration
}

// Reconciler handles one Deployment at a time.
type Reconciler struct {
	Options

	mu       sync.Mutex
	acquired map[wire.DeploymentID]seen // guarded by mu; what the log has told
	late     map[types.UID]bool         // guarded by mu; deletions that an event has told of
}

// seen is one generation of one Deployment.
type seen struct {
	uid        types.UID
	generation int64
}

// New returns a Reconciler that knows nothing yet.
func New(o Options) *Reconciler {
	return &Reconciler{Options: o, acquired: map[wire.DeploymentID]seen{}, late: map[types.UID]bool{}}
}

// Changed admits every change that is not of the status alone: the operator
// writes that itself, and often.
func Changed() predicate.TypedPredicate[*v1alpha1.Deployment] {
	return predicate.TypedFuncs[*v1alpha1.Deployment]{UpdateFunc: func(e event.TypedUpdateEvent[*v1alpha1.Deployment]) bool {
		before, after := e.ObjectOld, e.ObjectNew
		return before.UID != after.UID || before.Generation != after.Generation ||
			!maps.Equal(before.Annotations, after.Annotations) || !slices.Equal(before.Finalizers, after.Finalizers)
	}}
}

// Rules is what the controller may do in the cluster.
func Rules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{v1alpha1.Group}, Resources: []string{"deployments"}, Verbs: []string{"get", "list", "watch", "patch"}},
		{APIGroups: []string{eventsv1.GroupName}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
}

// Reconcile brings one Deployment into the engine, or out of it.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	id, err := wire.ParseDeploymentID(req.Namespace, req.Name)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(err) // the schema admits no such name
	}
	d := &v1alpha1.Deployment{}
	switch err := r.Client.Get(ctx, req.NamespacedName, d); {
	case apierrors.IsNotFound(err):
		return r.forget(ctx, id)
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("reading deployment %s: %w", id, err)
	}
	r.acquire(id, d)
	if !d.DeletionTimestamp.IsZero() {
		return r.release(ctx, id, d)
	}
	// The finalizer comes first: no key may outlive the Deployment unnoticed.
	if result, err := r.finalize(ctx, d, controllerutil.AddFinalizer); err != nil || !result.IsZero() {
		return result, err
	}
	r.Engine.SetDeployment(fleet.DeploymentFrom(d))
	return reconcile.Result{}, nil
}

// acquire logs each generation once.
func (r *Reconciler) acquire(id wire.DeploymentID, d *v1alpha1.Deployment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := seen{uid: d.UID, generation: d.Generation}
	if r.acquired[id] == now {
		return
	}
	r.acquired[id] = now
	r.Log.Info("acquired deployment", "deployment", id.String(), "uid", d.UID, "generation", d.Generation,
		"paused", d.Spec.Paused, "deleting", !d.DeletionTimestamp.IsZero())
}

// forget takes a Deployment out of the engine that is certainly gone.
func (r *Reconciler) forget(ctx context.Context, id wire.DeploymentID) (reconcile.Result, error) {
	d := &v1alpha1.Deployment{}
	d.Namespace, d.Name = id.Namespace, id.Name
	gone, err := r.Engine.Gone(ctx, d)
	if !gone {
		return reconcile.Result{}, err // when it is there, the cache is behind and will tell
	}
	r.Engine.RemoveDeployment(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.late, r.acquired[id].uid)
	delete(r.acquired, id)
	return reconcile.Result{}, nil
}

// release has the keys of a deleted Deployment removed, and lets it go when that
// is done or when somebody forces it.
func (r *Reconciler) release(ctx context.Context, id wire.DeploymentID, d *v1alpha1.Deployment) (reconcile.Result, error) {
	r.Engine.SetDeployment(fleet.DeploymentFrom(d))
	if !controllerutil.ContainsFinalizer(d, v1alpha1.Finalizer) {
		return reconcile.Result{}, nil
	}
	reason := r.Engine.Holding(id)
	forced := d.Annotations[v1alpha1.AnnotationForceDelete] == "true"
	if reason == "" || forced {
		if reason != "" {
			r.Log.Info("letting a deployment go by force", "deployment", id.String(), "reason", reason)
		}
		return r.finalize(ctx, d, controllerutil.RemoveFinalizer)
	}
	waited := time.Since(d.DeletionTimestamp.Time)
	if waited > r.DeleteTimeout {
		r.tellLate(d, reason)
	}
	return reconcile.Result{RequeueAfter: min(max(waited/4, minPause), maxPause)}, nil
}

// tellLate says once what a deletion waits for.
func (r *Reconciler) tellLate(d *v1alpha1.Deployment, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.late[d.UID] {
		return
	}
	r.late[d.UID] = true
	r.Events.Eventf(d, nil, corev1.EventTypeWarning, v1alpha1.ReasonDeleting, "Delete",
		"waiting: %s; to let it go now: kubectl annotate -n %s fdep %s %s=true", reason, d.Namespace, d.Name, v1alpha1.AnnotationForceDelete)
}

// finalize adds or removes the finalizer, if that is to be done. When somebody
// else changed the Deployment meanwhile, it is looked at again.
func (r *Reconciler) finalize(ctx context.Context, d *v1alpha1.Deployment, change func(client.Object, string) bool) (reconcile.Result, error) {
	before := d.DeepCopy()
	if !change(d, v1alpha1.Finalizer) {
		return reconcile.Result{}, nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	err := r.Client.Patch(ctx, d, patch, engine.FieldOwner)
	switch {
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: minPause}, nil
	case err != nil:
		return reconcile.Result{}, client.IgnoreNotFound(fmt.Errorf("changing the finalizer of deployment %s/%s: %w", d.Namespace, d.Name, err))
	}
	return reconcile.Result{}, nil
}
