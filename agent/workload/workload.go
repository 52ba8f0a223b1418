// Package workload keeps the device running what it shall: it looks at the
// containers, has agent/reconcile decide, and carries the steps out through a
// Runtime. It starts from the disk, needs no broker, and leaves the containers
// running when it ends.
//
// It never decides what to do with a container and never talks to the broker.
package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// ErrStale says that a desired state is older than the one that is held.
var ErrStale = errors.New("desired state is stale")

// Runtime is what runs containers.
type Runtime interface{}

// Options of a Manager; only Clock and Report may be left out.
type Options struct {
	Device wire.DeviceID
	Podman Runtime
	Store  *store.Store
	// PollInterval is the time between two looks at the containers.
	PollInterval time.Duration
	// Clock tells the time; nil means time.Now.
	Clock func() time.Time
	Log   logr.Logger
	// Report hears of each new state of a Deployment, and of nil when nothing of
	// it is left here. It is called from the loop and must not block.
	Report func(wire.DeploymentID, *wire.DeviceState)
}

// Manager runs the loop.
type Manager struct {
	options Options
	wake    chan struct{}

	mu      sync.Mutex
	desired store.Desired
	states  map[wire.DeploymentID]wire.DeviceState
}

// New loads the desired state from the disk.
func New(o Options) (*Manager, error) {
	desired, err := o.Store.LoadDesired()
	if err != nil {
		return nil, err
	}
	return &Manager{options: o, desired: desired, wake: make(chan struct{}, 1), states: map[wire.DeploymentID]wire.DeviceState{}}, nil
}

// Run carries out what is desired until ctx ends. Containers stay as they are
// then.
func (m *Manager) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Apply makes d the desired state: durable first, then on the way. A lower
// generation than the held one is refused with ErrStale. After another error,
// such as a full disk, the held one goes on.
func (m *Manager) Apply(d store.Desired) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.Generation < m.desired.Generation {
		return fmt.Errorf("generation %d, held %d: %w", d.Generation, m.desired.Generation, ErrStale)
	}
	if err := m.options.Store.SaveDesired(d); err != nil {
		return err
	}
	m.desired = d
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return nil
}

// Desired is the held desired state; it is shared and must not be changed.
func (m *Manager) Desired() store.Desired {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.desired
}

// States is the last state of each Deployment that is or was here.
func (m *Manager) States() map[wire.DeploymentID]wire.DeviceState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.states)
}

// Deployments is the part of a store.Report that the manager knows, in the order
// of names.
func (m *Manager) Deployments() []store.DeploymentReport {
	return nil
}
