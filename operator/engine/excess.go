package engine

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

const (
	// maxExcess is how many keys of one device may be of no use before all of its
	// states are purged. The core keeps some states of Deployments that are not the
	// device's (wire.MaxDeploymentsPerDevice) and these count beyond: an agent that
	// works has none.
	maxExcess = wire.MaxDeploymentsPerDevice
	// excessTick is how often states are purged, if any are to be.
	excessTick = time.Second
)

// excess is which keys of the bucket of states are of no use: the core has no room
// for them, or nobody can read them. The broker has no bound for the keys of one
// device, and one that fills the bucket keeps all others from new ones.
//
// It is not safe for concurrent use.
type excess struct {
	seed maphash.Seed
	// keys, as hashes, by device; at most maxExcess of each.
	keys map[wire.DeviceID]map[uint64]bool
	// due are the devices whose states are to be purged.
	due map[wire.DeviceID]bool
	// last is the sequence of the newest entry, whosever it is.
	last uint64
}

func newExcess() *excess {
	return &excess{seed: maphash.MakeSeed(), keys: map[wire.DeviceID]map[uint64]bool{}, due: map[wire.DeviceID]bool{}}
}

// reset begins anew: the bucket is replayed from the start.
func (x *excess) reset() {
	clear(x.keys)
	clear(x.due)
	x.last = 0
}

// note takes in whether an entry of the device is of use. A deleted one is: its key
// is gone.
func (x *excess) note(id wire.DeviceID, entry bus.Entry, useful bool) {
	x.last = entry.Sequence
	keys := x.keys[id]
	if useful && keys == nil {
		return
	}
	hash := maphash.String(x.seed, entry.Key)
	switch {
	case useful:
		if delete(keys, hash); len(keys) == 0 {
			delete(x.keys, id)
		}
		return
	case keys == nil:
		keys = map[uint64]bool{}
		x.keys[id] = keys
	}
	if keys[hash] = true; len(keys) >= maxExcess {
		delete(x.keys, id)
		x.due[id] = true
	}
}

// take returns the devices whose states are to be purged, and up to which sequence:
// that is all that was noted so far, and what is stored later stays.
func (x *excess) take() (due map[wire.DeviceID]bool, through uint64) {
	due, x.due = x.due, map[wire.DeviceID]bool{}
	return due, x.last
}

// observed tells the core of a state, nil for a deleted one, and notes whether it
// has room for it.
func (e *Engine) observed(id wire.DeviceID, dep wire.DeploymentID, state *wire.DeviceState, entry bus.Entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	kept := e.core.ObserveState(id, dep, state, entry.At)
	e.excess.note(id, entry, kept)
}

// unreadable notes an entry of the bucket of states that is of use to nobody.
func (e *Engine) unreadable(entry bus.Entry, problem error) {
	e.poison.found(wire.DeviceStates, entry.Key, problem)
	device, _, _ := strings.Cut(entry.Key, ".")
	id, err := wire.ParseDeviceID(device)
	if err != nil {
		return // no device may write such a key
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.excess.note(id, entry, entry.Deleted)
}

// purgeExcess purges the states of devices that fill the bucket, until ctx ends.
func (e *Engine) purgeExcess(ctx context.Context, conn *bus.Conn) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(excessTick):
		}
		due, through := e.takeExcess()
		for id := range due {
			err := conn.PurgeStates(ctx, id, through)
			if err == nil {
				e.metrics.purges.Inc()
				e.tellPurged(ctx, id)
				continue
			}
			if ctx.Err() == nil {
				e.o.Log.Error(err, "cannot purge the states of a device that fills the bucket; trying again", "device", id)
			}
			e.mu.Lock()
			e.excess.due[id] = true
			e.mu.Unlock()
		}
	}
}

// takeExcess takes the devices whose states are to be purged, and has the core
// forget those at the same moment: what it hears later is stored later, and stays.
func (e *Engine) takeExcess() (due map[wire.DeviceID]bool, through uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	due, through = e.excess.take()
	for id := range due {
		e.core.ForgetStates(id)
	}
	return due, through
}

// tellPurged says it in the log, and as an event of the Device if there is one.
func (e *Engine) tellPurged(ctx context.Context, id wire.DeviceID) {
	message := fmt.Sprintf("it stored more than %d states of Deployments that it does not run, so all of its states were purged; it reports anew when it connects again", maxExcess)
	e.o.Log.Info("purged the states of a device that fills the bucket; is it still in the right hands?", "device", id, "problem", message)
	device := &v1alpha1.Device{}
	if err := e.o.Client.Get(ctx, client.ObjectKey{Name: string(id)}, device); err == nil {
		e.tell(device, &fleet.Event{Type: corev1.EventTypeWarning, Reason: v1alpha1.ReasonStatesPurged, Message: message})
	}
}
