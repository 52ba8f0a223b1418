// Package workload keeps the device running what it shall: it looks at the
// containers, has agent/reconcile decide, and has a Runtime carry the steps out.
// It starts from the disk, needs no broker, and leaves the containers running
// when it ends.
//
// It never decides what to do with a container and never talks to the broker.
package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// ErrStale says that a desired state is older than the one that is held.
var ErrStale = errors.New("desired state is stale")

// Runtime is what runs containers.
type Runtime interface {
	// List is every container of the device, whatever state it is in.
	List(context.Context, wire.DeviceID) ([]reconcile.Container, error)
	// Do carries out one step. It returns soon after its context ends.
	Do(context.Context, wire.DeviceID, reconcile.Step) reconcile.Outcome
	// RemoveImage takes the name from the image with that id, which goes when it has no
	// other. It fails when somebody's container uses it.
	RemoveImage(ctx context.Context, name, id string) error
}

// Secrets has podman hold the values that scores name.
type Secrets interface {
	// Want makes these all the values that are wanted.
	Want([]reconcile.SecretKey)
	// Used tells the names of all of podman's secrets that containers have.
	Used(names []string)
	// Secrets are all values that are wanted, as they stand.
	Secrets() map[reconcile.SecretKey]reconcile.Secret
	// Changed is sent to when Secrets may have changed.
	Changed() <-chan struct{}
}

// none is a device without secrets: what names one waits.
type none struct{}

func (none) Want([]reconcile.SecretKey)                        {}
func (none) Used([]string)                                     {}
func (none) Secrets() map[reconcile.SecretKey]reconcile.Secret { return nil }
func (none) Changed() <-chan struct{}                          { return nil }

// Options of a Manager; Secrets, Clock, Report and Held may be left out.
type Options struct {
	Device wire.DeviceID
	Podman Runtime
	Store  *store.Store
	// Secrets that scores name; nil means none.
	Secrets Secrets
	// PollInterval is the time between two looks at the containers.
	PollInterval time.Duration
	// Pulls is how images are fetched; its Device is the one above.
	Pulls reconcile.Pulls
	// ImageRetention is how long an image stays that the agent pulled and that nothing
	// uses any more; 0 means for ever.
	ImageRetention time.Duration
	// Clock tells the time; nil means time.Now.
	Clock func() time.Time
	Log   logr.Logger
	// Alive is called from the loop, so that it is not when the loop hangs, every
	// Pulse; 0 means never.
	Alive func()
	Pulse time.Duration
	// Report hears of each new state of a Deployment, and of nil when nothing of
	// it is left here. It is called from the loop and must not block.
	Report func(wire.DeploymentID, *wire.DeviceState)
	// Held hears why nothing is changed from now on, and nil when things are again; it
	// is called as Report is.
	Held func(*hold.Hold)
}

// Manager runs the loop.
type Manager struct {
	options Options
	wake    chan struct{}

	mu      sync.Mutex
	desired store.Desired
	wanted  map[wire.DeploymentID]reconcile.Wanted // desired, decoded
	known   map[wire.DeploymentID]known
	hold    *hold.Hold // why nothing is changed now
	// unsaved is how those do whose newest version is not held, since it could not be
	// made durable. It is replaced and never changed.
	unsaved map[wire.DeploymentID]wire.DeviceState
}

// known is what the manager last said of a Deployment.
type known struct {
	state wire.DeviceState
	since time.Time
	// said is when the state was reported.
	said    time.Time
	nextTry time.Time
}

// New loads the desired state from the disk. A damaged one is logged and leaves
// nothing known: what runs goes on until the first Apply.
func New(o Options) (*Manager, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Secrets == nil {
		o.Secrets = none{}
	}
	if o.Report == nil {
		o.Report = func(wire.DeploymentID, *wire.DeviceState) {}
	}
	if o.Held == nil {
		o.Held = func(*hold.Hold) {}
	}
	o.Pulls.Device = o.Device
	m := &Manager{options: o, wake: make(chan struct{}, 1), known: map[wire.DeploymentID]known{}}
	desired, err := o.Store.LoadDesired()
	switch {
	case errors.Is(err, store.ErrDamaged):
		o.Log.Error(err, "starting without a desired state; what runs goes on")
	case err != nil:
		return nil, err
	}
	m.adopt(desired)
	return m, nil
}

// Apply makes d the desired state: durable first, then on the way. A lower
// generation than the held one is refused with ErrStale. After another error,
// such as a full disk, the held one goes on.
func (m *Manager) Apply(d store.Desired) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.Generation == 0 || d.Generation < m.desired.Generation {
		return fmt.Errorf("generation %d, held %d: %w", d.Generation, m.desired.Generation, ErrStale)
	}
	err := m.options.Store.SaveDesired(d)
	if err == nil {
		m.adopt(d)
	}
	m.unsaved = notSaved(m.desired, d, err)
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return err
}

// adopt takes d over, decoding what changed.
func (m *Manager) adopt(d store.Desired) {
	wanted := make(map[wire.DeploymentID]reconcile.Wanted, len(d.Deployments))
	for id, w := range d.Deployments {
		if held, same := m.wanted[id]; same && held.Digest == w.Digest {
			wanted[id] = held
		} else {
			wanted[id] = reconcile.Want(w.Digest, w.Score)
		}
	}
	m.desired, m.wanted = d, wanted
	var keys []reconcile.SecretKey
	for id, w := range wanted {
		keys = append(keys, w.SecretKeys(id)...)
	}
	m.options.Secrets.Want(keys)
}

// Desired is the held desired state, shared: it must not be changed.
func (m *Manager) Desired() store.Desired {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.desired
}

// Hold is why nothing is changed now; nil when things are.
func (m *Manager) Hold() *hold.Hold {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hold
}

// States is the last state of each Deployment that is here or shall be.
func (m *Manager) States() map[wire.DeploymentID]wire.DeviceState {
	m.mu.Lock()
	defer m.mu.Unlock()
	states := make(map[wire.DeploymentID]wire.DeviceState, len(m.known))
	for id, k := range m.known {
		states[id] = k.state
	}
	return states
}

// Deployments is the manager's part of a store.Report, in the order of names.
func (m *Manager) Deployments() []store.DeploymentReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	reports := make([]store.DeploymentReport, 0, len(m.known))
	for _, id := range slices.SortedFunc(maps.Keys(m.known), func(a, b wire.DeploymentID) int { return strings.Compare(a.String(), b.String()) }) {
		k := m.known[id]
		reports = append(reports, store.DeploymentReport{
			Namespace: id.Namespace, Name: id.Name, Revision: m.desired.Deployments[id].Revision,
			State: k.state, Since: k.since, NextTry: k.nextTry,
		})
	}
	return reports
}
