package fleet

import (
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Options of a Fleet.
type Options struct {
	// HeartbeatTimeout is how long after its last heartbeat a device counts as
	// unreachable; 0 means wire.HeartbeatTimeout.
	HeartbeatTimeout time.Duration
	// Renewal is the time between two manifests of a device for which nothing
	// changes: each is valid for one to two of it. 0 means DefaultRenewal.
	Renewal time.Duration
	// Secrets has grants made; without, none is ever taken.
	Secrets bool
}

// DefaultRenewal lets a manifest be taken over for 15 to 30 days.
const DefaultRenewal = 15 * 24 * time.Hour

// Fleet is everything that the operator knows, and what follows from it.
type Fleet struct {
	options   Options
	converged bool
	// clock is the latest time that was told: of TakeStatus, or of a state
	// since.
	clock time.Time
	// deaf while no sign of life can arrive; hearingSince is when that ended
	// last, in Unix nanoseconds, 0 for never.
	deaf         bool
	hearingSince int64

	byID        map[wire.DeviceID]*device
	devices     []*device // by slot
	deployments map[wire.DeploymentID]*deployment
	index       index

	// What may have an effect, oldest first.
	dirty        []*device     // desired state
	regrants     []*device     // secrets
	moved        []*deployment // status
	movedDevices []*device     // conditions
	checks       []*device     // presence, once the time is known
	timers       timers        // presence, when the time comes

	epoch    uint32 // number of ResetStored
	inFlight int    // writes
	audited  wire.DeploymentID

	// For Stats.
	known, reachable, knownDeployments, assignments, overLimit int
	droppedStates, evaluations                                 uint64
}

// New returns an empty Fleet that has not converged and hears nothing yet.
func New(o Options) *Fleet {
	if o.HeartbeatTimeout == 0 {
		o.HeartbeatTimeout = wire.HeartbeatTimeout
	}
	if o.Renewal == 0 {
		o.Renewal = DefaultRenewal
	}
	return &Fleet{
		options: o, index: newIndex(), deaf: true,
		byID: map[wire.DeviceID]*device{}, deployments: map[wire.DeploymentID]*deployment{},
	}
}

// Converge tells that every source has been replayed whole, so that effects may
// begin. Before, nothing is taken from a Fleet.
func (f *Fleet) Converge() { f.converged = true }

// Converged reports whether effects may be taken.
func (f *Fleet) Converged() bool { return f.converged }
