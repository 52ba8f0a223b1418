// Package operator assembles the part of Harmony Fleet that runs in the cluster:
// a manager with leader election and probes, the version lock, the engine, and
// one controller per resource. It holds no logic of its own.
package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/deployment"
	"github.com/nationtech/harmony-fleet/operator/device"
	"github.com/nationtech/harmony-fleet/operator/engine"
	"github.com/nationtech/harmony-fleet/operator/openbao"
	"github.com/nationtech/harmony-fleet/operator/publish"
	"github.com/nationtech/harmony-fleet/operator/roster"
	"github.com/nationtech/harmony-fleet/operator/schema"
)

// leaseName is the Lease that the leader holds.
const leaseName = "fleet-operator"

const (
	// reconcileTimeout bounds one look at one resource.
	reconcileTimeout = 30 * time.Second
	// maxRetry is the longest pause after a resource could not be handled.
	maxRetry = 30 * time.Second
)

// Options of Run.
type Options struct {
	// Log hears of everything.
	Log logr.Logger
	// Version of this program, for the metric fleet_build_info.
	Version string
	// Now is the time; nil means time.Now.
	Now func() time.Time
	// Metrics registers what is measured; nil means what the metrics address
	// serves.
	Metrics prometheus.Registerer
}

// Run works until ctx ends. It fails for what does not heal by itself: an address
// that is taken, a wrong password, a lost lease. The process must end then: the
// lease may be another's already.
func Run(ctx context.Context, kube *rest.Config, c config.OperatorConfig, o Options) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Metrics == nil {
		o.Metrics = ctrlmetrics.Registry
	}
	mgr, err := newManager(kube, c, o.Log)
	if err != nil {
		return fmt.Errorf("preparing the manager: %w", err)
	}
	signer, err := readSigner(c.Signing)
	if err != nil {
		return err
	}
	o.Log.Info("signing desired state", "publicKeys", signer.Keys())
	recorder := mgr.GetEventRecorder(string(engine.FieldOwner))
	gate := schema.New(mgr.GetAPIReader(), o.Log.WithName("schema"))
	options := engine.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: recorder,
		Config: c, Signer: signer, Log: o.Log.WithName("engine"), Now: o.Now,
	}
	policies, err := openPolicies(kube, c, o)
	if err != nil {
		return err
	}
	if policies != nil {
		defer policies.Close()
		options.Policies = policies
		options.Secrets, _ = policies.(engine.Secrets) // OpenBao alone has any
	}
	core := engine.New(options)
	deployments, err := controllerFor(mgr, "deployment", &v1alpha1.Deployment{}, watch[*v1alpha1.Deployment]{
		changed: deployment.Changed(),
		reconciler: deployment.New(deployment.Options{
			Client: mgr.GetClient(), Engine: core, Events: recorder,
			Log: o.Log.WithName("deployment"), DeleteTimeout: time.Duration(c.DeleteTimeout),
		}),
	})
	if err != nil {
		return err
	}
	devices, err := controllerFor(mgr, "device", &v1alpha1.Device{}, watch[*v1alpha1.Device]{
		changed:    device.Changed(),
		reconciler: &device.Reconciler{Client: mgr.GetClient(), Engine: core},
	})
	if err != nil {
		return err
	}
	work := leading{gate: gate, engine: core, loops: []func(context.Context) error{core.Run, deployments.Start, devices.Start}}
	if policies != nil {
		work.loops = append(work.loops, func(ctx context.Context) error { policies.Run(ctx, func([]wire.DeviceID) {}); return nil })
	}
	if c.Publish.ConfigMap != "" {
		publisher, err := newPublisher(kube, c, signer, o)
		if err != nil {
			return err
		}
		work.loops = append(work.loops, publisher.Run)
	}
	for _, runnable := range []manager.Runnable{gate, work} {
		if err := mgr.Add(runnable); err != nil {
			return fmt.Errorf("adding to the manager: %w", err)
		}
	}
	if err := addChecks(mgr, gate, replica{core, mgr.Elected(), mgr.GetAPIReader(), c.LeaderElection.Namespace, o.Now}); err != nil {
		return err
	}
	for _, collector := range []prometheus.Collector{core.Collector(), buildInfo(o.Version)} {
		if err := o.Metrics.Register(collector); err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
		defer o.Metrics.Unregister(collector)
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running the manager: %w", err)
	}
	return nil
}

// store is where the policies of devices are kept.
type store interface {
	engine.Policies
	// Run keeps up with them until ctx ends, and calls cut with the devices that may
	// no longer be connected.
	Run(ctx context.Context, cut func([]wire.DeviceID))
	Close()
}

func newPublisher(kube *rest.Config, c config.OperatorConfig, signer *wire.Signer, o Options) (*publish.Publisher, error) {
	return publish.New(publish.Options{
		Kube: kube, Namespace: c.LeaderElection.Namespace, Config: c.Publish,
		TrustedKeys: signer.Keys(), Policies: keptIn(c), Version: o.Version, Log: o.Log.WithName("publish"),
	})
}

// keptIn is where the policies are kept, as the published ConfigMap calls it.
func keptIn(c config.OperatorConfig) string {
	switch {
	case c.OpenBao.Address != "":
		return config.PoliciesInOpenBao
	case c.Roster.Enabled:
		return config.PoliciesInCluster
	}
	return ""
}

// openPolicies opens the store that the configuration names, nil for none.
func openPolicies(kube *rest.Config, c config.OperatorConfig, o Options) (store, error) {
	switch keptIn(c) {
	case config.PoliciesInOpenBao:
		return openbao.New(openbao.Options{Config: c.OpenBao, Log: o.Log.WithName("openbao"), Now: o.Now})
	case config.PoliciesInCluster:
		return roster.New(roster.Options{Kube: kube, Config: c.Roster, Log: o.Log.WithName("roster"), Now: o.Now})
	}
	o.Log.Info("devices may claim any label: there is neither openbao.address nor roster.enabled")
	return nil, nil
}

func newManager(kube *rest.Config, c config.OperatorConfig, log logr.Logger) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, apiextensionsv1.AddToScheme, coordinationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("registering types: %w", err)
		}
	}
	kube = rest.CopyConfig(kube)
	kube.QPS = -1 // the API server has its own flow control, and the status its budget
	grace := 10 * time.Second
	return manager.New(kube, manager.Options{
		Scheme: scheme,
		Logger: log,
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
		},
		LeaderElection:                c.LeaderElection.Enabled,
		LeaderElectionNamespace:       c.LeaderElection.Namespace,
		LeaderElectionID:              leaseName,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &grace,
		Metrics:                       metricsserver.Options{BindAddress: c.MetricsAddress},
		HealthProbeBindAddress:        c.ProbeAddress,
		PprofBindAddress:              c.ProfileAddress,
	})
}

// readSigner reads the signing keys. Its errors name the files, and nothing that
// is in them.
func readSigner(c config.Signing) (*wire.Signer, error) {
	var seeds [][]byte
	for _, file := range c.KeyFiles {
		seed, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading a signing key: %w", err)
		}
		seeds = append(seeds, bytes.TrimSpace(seed))
	}
	signer, err := wire.NewSigner(seeds...)
	if err != nil {
		return nil, fmt.Errorf("reading the signing keys %q: %w", c.KeyFiles, err)
	}
	return signer, nil
}

func addChecks(mgr manager.Manager, gate *schema.Gate, self replica) error {
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("adding a health check: %w", err)
	}
	for name, check := range map[string]healthz.Checker{"schema": gate.Ready, "broker": self.ready} {
		if err := mgr.AddReadyzCheck(name, check); err != nil {
			return fmt.Errorf("adding a readiness check: %w", err)
		}
	}
	return nil
}

// replica is one of several, of which one leads.
type replica struct {
	engine    *engine.Engine
	elected   <-chan struct{} // closed when this one leads
	reader    client.Reader
	namespace string // of the Lease
	now       func() time.Time
}

// ready is a readiness check: this replica leads and can work, or another one leads.
// So whoever waits for an install to be ready does not see one that has only just
// begun.
func (r replica) ready(request *http.Request) error {
	select {
	case <-r.elected:
		return r.engine.Ready(request)
	default:
	}
	lease := &coordinationv1.Lease{}
	if err := r.reader.Get(request.Context(), client.ObjectKey{Namespace: r.namespace, Name: leaseName}, lease); err != nil {
		return fmt.Errorf("looking which replica leads: %w", err)
	}
	if s := lease.Spec; s.RenewTime == nil || s.LeaseDurationSeconds == nil || ptr.Deref(s.HolderIdentity, "") == "" ||
		r.now().Sub(s.RenewTime.Time) > time.Duration(*s.LeaseDurationSeconds)*time.Second {
		return errors.New("no replica leads yet")
	}
	return nil
}

// leading is what the leader alone does: once the version lock is open, seed the
// core, then run the loops.
type leading struct {
	gate   *schema.Gate
	engine *engine.Engine
	loops  []func(context.Context) error
}

// Start implements manager.Runnable.
func (l leading) Start(ctx context.Context) error {
	if !l.gate.Wait(ctx) {
		return nil // the manager stops
	}
	if err := l.engine.Seed(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, loop := range l.loops {
		g.Go(func() error { return loop(ctx) })
	}
	return g.Wait()
}

// watch is what a controller looks at, and who handles it.
type watch[T client.Object] struct {
	changed    predicate.TypedPredicate[T]
	reconciler reconcile.Reconciler
}

// controllerFor makes a controller that the caller starts.
func controllerFor[T client.Object](mgr manager.Manager, name string, object T, w watch[T]) (controller.Controller, error) {
	anyName := true // Run may run more than once in a process
	c, err := controller.NewUnmanaged(name, controller.Options{
		Reconciler: w.reconciler, MaxConcurrentReconciles: 4, ReconciliationTimeout: reconcileTimeout,
		Logger: mgr.GetLogger(), SkipNameValidation: &anyName,
		RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](100*time.Millisecond, maxRetry),
	})
	if err == nil {
		err = c.Watch(source.Kind(mgr.GetCache(), object, &handler.TypedEnqueueRequestForObject[T]{}, w.changed))
	}
	if err != nil {
		return nil, fmt.Errorf("preparing the %s controller: %w", name, err)
	}
	return c, nil
}

func buildInfo(version string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fleet_build_info", Help: "Always 1, with the version of the operator.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	return info
}

// ClusterRules is what the operator may do in the whole cluster.
func ClusterRules() []rbacv1.PolicyRule {
	rules := schema.Rules()
	rules = append(rules, engine.Rules()...)
	rules = append(rules, deployment.Rules()...)
	rules = append(rules, device.Rules()...)
	return append(rules, roster.ReaderRules()...)
}

// LeaseRules is what the operator may do in its own namespace: hold the Lease and
// tell in events who holds it.
func LeaseRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{coordinationv1.GroupName}, Resources: []string{"leases"}, Verbs: []string{"create"}},
		{APIGroups: []string{coordinationv1.GroupName}, Resources: []string{"leases"}, ResourceNames: []string{leaseName}, Verbs: []string{"get", "update"}},
		{APIGroups: []string{corev1.GroupName}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
}
