package engine

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

// infoFollower hears what devices say they are.
type infoFollower struct{ e *Engine }

func (f infoFollower) Reset()    {}
func (f infoFollower) CaughtUp() { f.e.replayed(infoSource) }

func (f infoFollower) Entry(entry bus.Entry) {
	id, err := wire.ParseDeviceKey(entry.Key)
	if err != nil {
		f.e.poison.found(wire.DeviceInfos, entry.Key, err)
		return
	}
	if entry.Deleted {
		return // a Device is removed by people alone
	}
	info, err := wire.DecodeDeviceInfo(entry.Value)
	if err != nil {
		f.e.poison.found(wire.DeviceInfos, entry.Key, err)
		return
	}
	f.e.mu.Lock()
	f.e.core.ObserveHold(id, info.Hold)
	f.e.mu.Unlock()
	f.e.infos.put(id, info)
}

// stateFollower hears how Deployments do on devices.
type stateFollower struct{ e *Engine }

func (f stateFollower) Reset() {
	f.e.replaying(stateSource, func(core *fleet.Fleet) {
		core.ResetStates()
		f.e.excess.reset()
	})
}

func (f stateFollower) CaughtUp() { f.e.replayed(stateSource) }

func (f stateFollower) Entry(entry bus.Entry) {
	id, dep, err := wire.ParseDeploymentKey(entry.Key)
	if err != nil {
		f.e.unreadable(entry, err)
		return
	}
	var state *wire.DeviceState
	if entry.Deleted {
		f.e.mark(entry)
	} else {
		decoded, err := wire.DecodeDeviceState(entry.Value)
		if err != nil {
			f.e.unreadable(entry, err)
			return
		}
		state = &decoded
	}
	f.e.observed(id, dep, state, entry)
}

// heartbeatFollower hears signs of life.
type heartbeatFollower struct{ e *Engine }

func (f heartbeatFollower) Reset()    {}
func (f heartbeatFollower) CaughtUp() { f.e.replayed(heartbeatSource) }

func (f heartbeatFollower) Entry(entry bus.Entry) {
	id, err := wire.ParseDeviceKey(entry.Key)
	if err != nil {
		f.e.poison.found(wire.DeviceHeartbeats, entry.Key, err)
		return
	}
	if entry.Deleted {
		return
	}
	heartbeat, err := wire.DecodeHeartbeat(entry.Value)
	if err != nil {
		f.e.poison.found(wire.DeviceHeartbeats, entry.Key, err)
		return
	}
	f.e.mu.Lock()
	f.e.core.ObserveHeartbeat(id, heartbeat, entry.At)
	f.e.mu.Unlock()
	f.e.poke() // it may tell of a manifest that the store has lost
}

// maxPoisonKeys bounds what is remembered of keys that were logged.
const maxPoisonKeys = 1000

// poison counts keys and payloads that cannot be read, and logs each key once.
type poison struct {
	counter *prometheus.CounterVec
	log     logr.Logger

	mu   sync.Mutex
	seen map[string]bool // guarded by mu; at most maxPoisonKeys
}

func (p *poison) found(bucket wire.Bucket, key string, err error) {
	p.counter.WithLabelValues(bucket.Name).Inc()
	p.mu.Lock()
	defer p.mu.Unlock()
	id := bucket.Name + " " + key
	if p.seen[id] || len(p.seen) >= maxPoisonKeys {
		return
	}
	p.seen[id] = true
	p.log.Info("skipping what cannot be read", "bucket", bucket.Name, "key", wire.CleanText(key, 256), "reason", wire.CleanText(err.Error(), 512))
	if len(p.seen) == maxPoisonKeys {
		p.log.Info("too many unreadable keys; further ones are counted and not logged", "logged", maxPoisonKeys)
	}
}

// purgePause is the time between two purges of markers: they are house-keeping
// and must not compete with the fleet.
const purgePause = 10 * time.Millisecond

// mark notes the marker of a deleted state for purging. When there are too many
// at once, the rest is noted at the next start.
func (e *Engine) mark(entry bus.Entry) {
	select {
	case e.markers <- bus.Entry{Key: entry.Key, Sequence: entry.Sequence}:
	default:
	}
}

// purgeMarkers removes the markers that devices leave when they delete a state.
func (e *Engine) purgeMarkers(ctx context.Context, conn *bus.Conn) {
	for {
		select {
		case <-ctx.Done():
			return
		case marker := <-e.markers:
			if err := conn.Purge(ctx, wire.DeviceStates, marker.Key, marker.Sequence); err != nil && ctx.Err() == nil {
				e.o.Log.V(1).Info("cannot purge a marker", "key", marker.Key, "reason", err.Error())
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(purgePause):
		}
	}
}
