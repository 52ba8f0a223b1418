// Package engine owns the operator's core behind one mutex: it feeds it with what
// the cluster and the broker say, and carries its effects out. It runs on the
// leader alone. It decides nothing about devices, scores or statuses (package
// fleet does), and it never deletes a Deployment or a Device.
//
// What goes in: Deployments and Devices through the controllers; states and
// heartbeats by following their buckets; the desired state that is stored by
// reading its bucket at the start, after the broker lost some, and in audits.
// Nothing goes out before all of that has been read whole once.
//
// What goes out: desired state in atomic writes, statuses and conditions as
// patches within a budget, Devices from what the devices report, and which secrets
// each may read.
package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

// FieldOwner is the name under which the operator writes to the cluster.
const FieldOwner = client.FieldOwner("fleet-operator")

// Options of an Engine; all are needed.
type Options struct {
	// Client reads from a cache and writes to the API server; Live reads from
	// the API server.
	Client client.Client
	Live   client.Reader
	Events events.EventRecorder
	Config config.OperatorConfig
	// Signer signs desired state.
	Signer *wire.Signer
	// Policies say which labels a device may claim; nil lets it claim any.
	Policies Policies
	// Secrets is told which secrets a device may read; nil when there are none.
	Secrets Secrets
	Log     logr.Logger
	// Now is the time.
	Now func() time.Time
}

// Policies is where the policies of devices are kept.
type Policies interface {
	// Policy of a device. It fails with policy.ErrNone, policy.ErrRevoked or
	// policy.ErrMalformed when that is certain, and otherwise because it could not
	// be found out.
	Policy(context.Context, wire.DeviceID) (policy.Policy, error)
}

// source is something that is replayed whole before the core may act.
type source uint8

const (
	storedSource source = 1 << iota
	infoSource
	stateSource
	heartbeatSource
	allSources = storedSource | infoSource | stateSource | heartbeatSource
)

// Engine is the leader's work. Its methods may be called from any goroutine.
type Engine struct {
	o       Options
	metrics *metrics
	poison  poison
	infos   *infoQueue // made by Run
	markers chan bus.Entry

	wake        chan struct{} // the core may have something to write
	connections atomic.Int64  // counts connections made; a new one means that the broker may have changed
	connected   atomic.Bool

	mu      sync.Mutex
	core    *fleet.Fleet // guarded by mu
	lacking source       // guarded by mu; sources that are being replayed
	since   time.Time    // guarded by mu; when the oldest of those replays began
	changes uint64       // guarded by mu; counts changes of resources
	// hasConverged is guarded by mu; true from the first time on.
	hasConverged bool
	problem      error   // guarded by mu; why the leader cannot work with the broker
	excess       *excess // guarded by mu; which states are of no use
	// departed is guarded by mu: devices whose resource is gone, and not yet what
	// the broker holds of them.
	departed map[wire.DeviceID]bool
}

// New returns an engine that does nothing yet.
func New(o Options) *Engine {
	e := &Engine{
		o: o, core: fleet.New(fleet.Options{Renewal: time.Duration(o.Config.Signing.Validity) / 2, Secrets: o.Secrets != nil}), lacking: allSources,
		wake: make(chan struct{}, 1), markers: make(chan bus.Entry, 1024), departed: map[wire.DeviceID]bool{}, excess: newExcess(),
	}
	e.metrics = newMetrics(e)
	e.poison = poison{counter: e.metrics.poison, log: o.Log, seen: map[string]bool{}}
	return e
}

// Seed tells the core of every resource in the cache, so that it knows them all
// when it converges. It must be called before the controllers start: later, what
// it reads may be older than what they told.
func (e *Engine) Seed(ctx context.Context) error {
	devices := &v1alpha1.DeviceList{}
	if err := e.o.Client.List(ctx, devices, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	deployments := &v1alpha1.DeploymentList{}
	if err := e.o.Client.List(ctx, deployments, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing deployments: %w", err)
	}
	for i := range devices.Items {
		if id, err := wire.ParseDeviceID(devices.Items[i].Name); err == nil {
			e.SetDevice(id, &devices.Items[i])
		}
	}
	for i := range deployments.Items {
		// One without the finalizer is new: its keys may not be written yet.
		if d := &deployments.Items[i]; hasFinalizer(d) {
			e.SetDeployment(fleet.DeploymentFrom(d))
		}
	}
	return nil
}

func hasFinalizer(d *v1alpha1.Deployment) bool {
	for _, f := range d.Finalizers {
		if f == v1alpha1.Finalizer {
			return true
		}
	}
	return false
}

// Run connects to the broker and works until ctx ends. It fails only for what
// does not heal by itself, such as a wrong password.
func (e *Engine) Run(ctx context.Context) error {
	e.begin()
	conn, err := bus.Connect(ctx, bus.Options{
		NATS: e.o.Config.NATS, Credentials: e.o.Config.Credentials, Name: "fleet-operator",
		Log: e.o.Log.WithName("bus"), OnConnection: e.onConnection,
	})
	if err != nil {
		return fmt.Errorf("connecting to the broker: %w", err)
	}
	defer conn.Close()
	e.infos = newInfoQueue()
	if !e.awaitFit(ctx, conn) {
		return nil
	}
	var loops sync.WaitGroup
	for bucket, follower := range map[wire.Bucket]bus.Follower{
		wire.DeviceInfos: infoFollower{e}, wire.DeviceStates: stateFollower{e}, wire.DeviceHeartbeats: heartbeatFollower{e},
	} {
		loops.Go(func() { _ = conn.Follow(ctx, bucket, follower) }) // it ends with ctx alone
	}
	loops.Go(func() { newStore(e, conn).run(ctx) })
	loops.Go(func() { e.patch(ctx) })
	loops.Go(func() { e.applyInfos(ctx) })
	loops.Go(func() { e.confirmOrphans(ctx) })
	loops.Go(func() { e.purgeMarkers(ctx, conn) })
	loops.Go(func() { e.forgetDeparted(ctx, conn) })
	loops.Go(func() { e.purgeExcess(ctx, conn) })
	if e.o.Secrets != nil {
		loops.Go(func() { e.grant(ctx) })
	}
	loops.Wait()
	return nil
}

func (e *Engine) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.since = e.o.Now()
	e.problem = bus.ErrDisconnected // until the first check
}

// onConnection hears of every connection made and lost.
func (e *Engine) onConnection(connected bool) {
	e.connected.Store(connected)
	e.mu.Lock()
	e.core.Hearing(connected, e.o.Now())
	e.mu.Unlock()
	if connected {
		e.connections.Add(1)
		e.poke()
	}
}

// poke has the store look for something to write.
func (e *Engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// SetDeployment tells the core of a Deployment that is there.
func (e *Engine) SetDeployment(d fleet.Deployment) {
	e.change(func(core *fleet.Fleet) { core.SetDeployment(d) })
}

// RemoveDeployment tells the core of a Deployment that is certainly gone.
func (e *Engine) RemoveDeployment(id wire.DeploymentID) {
	e.change(func(core *fleet.Fleet) { core.RemoveDeployment(id) })
}

// SetDevice tells the core of a Device that is there.
func (e *Engine) SetDevice(id wire.DeviceID, d *v1alpha1.Device) {
	e.change(func(core *fleet.Fleet) {
		core.SetDevice(id, d.Labels, d.Status.Conditions)
		core.SetHold(id, d.Annotations[v1alpha1.AnnotationHoldUntil])
		delete(e.departed, id)
	})
}

// RemoveDevice tells the core of a Device that is certainly gone.
func (e *Engine) RemoveDevice(id wire.DeviceID) {
	e.change(func(core *fleet.Fleet) {
		core.RemoveDevice(id)
		e.departed[id] = true
	})
}

// change tells the core something that may lead to writes.
func (e *Engine) change(tell func(*fleet.Fleet)) {
	e.mu.Lock()
	tell(e.core)
	e.changes++
	e.mu.Unlock()
	e.poke()
}

// Holding says what a deleted Deployment still waits for, in words for people;
// "" when the broker has acknowledged that none of its keys is left.
func (e *Engine) Holding(id wire.DeploymentID) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	held, converged := e.core.HeldBy(id), e.core.Converged()
	switch {
	case converged && held == 0:
		return ""
	case !e.connected.Load():
		return "the broker cannot be reached"
	case e.problem != nil:
		return "the broker is not fit for use: " + e.problem.Error()
	case !converged:
		return "the broker's store is being read"
	}
	return fmt.Sprintf("its keys are still to be removed for %d devices", held)
}

// Gone reads a resource from the API server and reports whether it certainly is
// not there. An API server that does not know the kind proves nothing.
func (e *Engine) Gone(ctx context.Context, object client.Object) (bool, error) {
	err := e.o.Live.Get(ctx, client.ObjectKeyFromObject(object), object)
	if err == nil {
		return false, nil
	}
	if apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return true, nil
	}
	return false, fmt.Errorf("reading %s from the API server: %w", object.GetName(), err)
}

// errNotBegun is why a leader is not ready at first.
var errNotBegun = errors.New("this replica leads, and has not begun yet")

// Ready is a readiness check for the leader: what makes the broker unfit for use. A
// broker that went away later does not make it unready: no replica could do better.
func (e *Engine) Ready(*http.Request) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.since.IsZero() {
		return errNotBegun
	}
	return e.problem
}

// replaying tells that a source is read from the start; forget is called with
// the core at the same moment.
func (e *Engine) replaying(s source, forget func(*fleet.Fleet)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lacking == 0 {
		e.since = e.o.Now()
	}
	e.lacking |= s
	forget(e.core)
}

// replayed tells that a source has been read whole. After the last one the core
// may act.
func (e *Engine) replayed(s source) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lacking &^= s
	if e.lacking != 0 || e.core.Converged() {
		return
	}
	e.core.Converge()
	log := e.o.Log
	if e.hasConverged {
		log = log.V(1) // an audit, or a repair that has a line of its own
	}
	e.hasConverged = true
	stats := e.core.Stats()
	log.Info("converged", "devices", stats.Devices, "reachable", stats.Reachable, "deployments", stats.Deployments,
		"assignments", stats.Assignments, "duration", e.o.Now().Sub(e.since))
	e.poke()
}
