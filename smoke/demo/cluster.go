package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/kube"
)

// startCluster starts a control plane, or takes the one of the kubeconfig, and
// installs the fleet's definitions.
func (e *environment) startCluster(ctx context.Context) error {
	plane, err := e.controlPlane(ctx)
	if err != nil {
		return err
	}
	e.kubeconfig = plane.Kubeconfig()
	return kube.InstallCRDs(ctx, plane.Config(), crds.All())
}

func (e *environment) controlPlane(ctx context.Context) (*kube.ControlPlane, error) {
	if e.options.Kubeconfig == "" {
		plane, err := kube.Start(ctx, kube.Options{Dir: e.path("kube"), Progress: io.Discard})
		if err != nil {
			return nil, err
		}
		e.onStop("stopping the control plane", plane.Stop)
		return plane, nil
	}
	plane, err := kube.Existing(e.options.Kubeconfig)
	if err != nil {
		return nil, err
	}
	guest, err := newGuest(plane.Config())
	if err != nil {
		return nil, err
	}
	if err := guest.refuseLiving(ctx); err != nil {
		return nil, err
	}
	e.onStop("removing the fleet's definitions from the cluster", guest.removeDefinitions)
	return plane, nil
}

// guest is a demo in somebody's cluster: it takes away what it brought.
type guest struct{ client client.Client }

func newGuest(config *rest.Config) (*guest, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), apiextensionsv1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering types: %w", err)
	}
	// Without a logger the client complains that there is none.
	c, err := client.New(config, client.Options{Scheme: scheme, Log: logr.FromSlogHandler(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return &guest{c}, nil
}

// refuseLiving refuses a cluster that has the fleet's definitions already: two
// operators would fight over it, and the end of the demo would remove them.
func (g *guest) refuseLiving(ctx context.Context) error {
	for _, definition := range crds.All() {
		err := g.client.Get(ctx, client.ObjectKeyFromObject(definition), definition)
		if err == nil {
			return fmt.Errorf("the cluster has Harmony Fleet installed already; use another, or delete the definition %s if a demo left it", definition.Name)
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("looking for the fleet's definitions: %w", err)
		}
	}
	return nil
}

// removeDefinitions deletes the definitions and with them every Deployment and
// Device, and returns when they are gone. The operator has ended by now, so
// finalizers that wait for it are taken off; the containers go with the demo.
func (g *guest) removeDefinitions() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var list v1alpha1.DeploymentList
	if err := g.client.List(ctx, &list); err != nil && !meta.IsNoMatchError(err) {
		return fmt.Errorf("listing what the demo left: %w", err)
	}
	for i := range list.Items {
		free := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
		if err := client.IgnoreNotFound(g.client.Patch(ctx, &list.Items[i], free)); err != nil {
			return fmt.Errorf("releasing deployment %q: %w", list.Items[i].Name, err)
		}
	}
	for _, definition := range crds.All() {
		if err := client.IgnoreNotFound(g.client.Delete(ctx, definition)); err != nil {
			return fmt.Errorf("deleting definition %q: %w", definition.Name, err)
		}
	}
	return eventually(ctx, func() error { return g.refuseLiving(ctx) })
}
