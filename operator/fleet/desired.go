package fleet

import (
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// maxUnit is how many messages one atomic write may take.
const maxUnit = 1000

// desired is what is known of a device's desired state.
type desired struct {
	// generation of the stored manifest; 0 for none. issued is the highest that
	// was ever stored or handed out: a write that failed may be stored all the
	// same, and a device may have read what the store has lost since.
	// agent is the one that the device says it holds.
	generation, issued, agent uint64
	// notAfter of the stored manifest, in Unix seconds. foreign says that it is
	// not signed as it would be now.
	notAfter int64
	foreign  bool
	// flight is the write that was taken and is not certain to be stored. While
	// it is sent it is in flight; after it failed it is sent again as it was,
	// because only then is it known what the store holds.
	flight *DeviceWrite
	sent   bool
	dirty  bool // in Fleet.dirty
	over   int  // matched Deployments beyond the limit
}

// replan puts a device on the list of those whose desired state may have moved.
// A write in flight does so by itself when it ends.
func (f *Fleet) replan(d *device) {
	f.regrant(d)
	if !d.dirty && !d.sent {
		d.dirty = true
		f.dirty = append(f.dirty, d)
	}
}

// Renew has the manifests written anew that are to be renewed by now.
func (f *Fleet) Renew(now time.Time) {
	for _, d := range f.devices {
		if f.stale(d, now) {
			f.replan(d)
		}
	}
}

// stale reports whether the stored manifest is to be replaced though it says what
// it should. That of a device without a resource is left to expire.
func (f *Fleet) stale(d *device, now time.Time) bool {
	return d.known && d.generation > 0 && (d.foreign || d.notAfter < f.notAfter(d, now).Unix())
}

// notAfter is how long a manifest is valid that is written now. Time is cut into
// periods, each device's at another moment so that renewals spread, and the end
// is that of the next period: operators that race write the same.
func (f *Fleet) notAfter(d *device, now time.Time) time.Time {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(d.id)) // never fails
	period := f.options.Renewal.Truncate(time.Second)
	phase := time.Duration(hash.Sum64()%uint64(period/time.Second)) * time.Second
	return now.Add(-phase).Truncate(period).Add(phase + 2*period)
}

// TakeWrites takes desired state to write, at most maxMessages messages but at
// least one write when there is any, in the order of the device ids. What is
// taken is in flight until Written, and there is at most one write in flight for
// a device.
func (f *Fleet) TakeWrites(now time.Time, maxMessages int) []DeviceWrite {
	if !f.converged {
		return nil
	}
	var taken []DeviceWrite
	for room := maxMessages; len(f.dirty) > 0 && room > 0; {
		d := f.dirty[0]
		w, moved := f.plan(d, now)
		if moved && len(taken) > 0 && w.Messages() > room {
			break
		}
		f.dirty, d.dirty = f.dirty[1:], false
		if moved {
			f.send(d, w)
			taken = append(taken, w)
			room -= w.Messages()
		}
	}
	slices.SortFunc(taken, func(a, b DeviceWrite) int { return strings.Compare(string(a.Device), string(b.Device)) })
	return taken
}

func (f *Fleet) send(d *device, w DeviceWrite) {
	d.flight, d.sent, d.issued = &w, true, w.Manifest.Generation
	f.inFlight++
	for _, put := range w.Put {
		r := d.find(f.deployments[put.Deployment])
		r.flying = true
		f.stow(d, r)
	}
}

// Written tells how a write ended. One that is not certain to be stored (ok is
// false) is taken again as it was.
func (f *Fleet) Written(w DeviceWrite, ok bool) {
	d := f.byID[w.Device]
	if d == nil || !d.sent || w.epoch != f.epoch || w.Manifest.Generation != d.flight.Manifest.Generation {
		return
	}
	d.sent = false
	f.inFlight--
	f.replan(d)
	if !ok {
		return
	}
	d.flight = nil
	for _, put := range w.Put {
		r := d.find(f.deployments[put.Deployment])
		r.flying, r.key = false, internDigest(w.Manifest.Deployments[r.deployment.token].Digest)
	}
	for _, id := range w.Delete {
		d.find(f.deployments[id]).key = digest{}
	}
	f.storeManifest(d, w.Manifest)
}

// plan is the next write of a device; moved is false when its desired state is
// stored.
func (f *Fleet) plan(d *device, now time.Time) (w DeviceWrite, moved bool) {
	if d.flight != nil {
		return *d.flight, true
	}
	drops, sets, over := d.changes()
	f.overLimit += over - d.over
	d.over = over
	// An agent that holds a higher generation than the store says that the store
	// was lost: it listens only to one that is higher still.
	lost := d.known && d.agent > d.generation
	if len(drops)+len(sets) == 0 && !lost && d.holdUntil() == d.written && !f.stale(d, now) {
		return DeviceWrite{}, false
	}
	w = d.write(drops, sets)
	w.epoch, w.Manifest.NotAfter = f.epoch, f.notAfter(d, now)
	if until := d.holdUntil(); until != 0 {
		w.Manifest.HoldUntil = time.Unix(until, 0).UTC()
	}
	return w, true
}

// intent is what shall become of a record's place in the store.
type intent uint8

const (
	keep intent = iota // as it is stored
	want               // the Deployment's score
	drop               // nothing
)

func (d *device) intent(r *record) intent {
	dep := r.deployment
	switch {
	case dep.gone, dep.deleting:
		// Seen for certain, so it holds for a device without a resource too:
		// the Deployment's finalizer waits for every device.
		return drop
	case !dep.known:
		return keep
	case d.removed:
		return drop
	case !d.known:
		return keep
	case dep.held():
		if r.matched && dep.lostBy(r) {
			return want
		}
		return keep
	case r.matched:
		return want
	}
	return drop
}

// lostBy reports whether the store has lost a held Deployment that the device
// has: the manifest still names the very score, or the store has nothing and the
// device reports on it all the same. Without it in the manifest the device would
// take its containers down.
func (dep *deployment) lostBy(r *record) bool {
	none := digest{}
	if dep.digest == none || r.key != none {
		return false
	}
	return r.entry == dep.digest || r.entry == none && r.state != none
}

// changes lists the records whose place in the store is to be emptied and those
// whose place is to be written, and counts the matched ones that find no room in
// the manifest. The first by id have it.
func (d *device) changes() (drops, sets []*record, over int) {
	room := wire.MaxDeploymentsPerDevice
	if len(d.records) > room {
		for i := range d.records {
			if r := &d.records[i]; r.entry != (digest{}) && d.intent(r) == keep {
				room--
			}
		}
	}
	for i := range d.records {
		r := &d.records[i]
		to := d.intent(r)
		if to == want {
			if room--; room < 0 {
				to = drop
				over++
			}
		}
		switch wanted := r.deployment.digest; {
		case to == drop && (r.entry != digest{} || r.key != digest{}):
			drops = append(drops, r)
		case to == want && (r.entry != wanted || r.key != wanted):
			sets = append(sets, r)
		}
	}
	return drops, sets, over
}

// write makes the next write out of as many of the changes as fit into one. What
// is dropped goes first, so that no manifest on the way is larger than allowed.
func (d *device) write(drops, sets []*record) DeviceWrite {
	entries := make(map[string]wire.ManifestEntry, len(d.records))
	for i := range d.records {
		if r := &d.records[i]; r.entry != (digest{}) {
			entries[r.deployment.token] = wire.ManifestEntry{Revision: r.revision, Digest: r.entry.Value()}
		}
	}
	w := DeviceWrite{Device: d.id, Manifest: wire.Manifest{Generation: d.nextGeneration(), Deployments: entries}}
	for _, r := range drops {
		if r.key != (digest{}) {
			if w.Messages() == maxUnit {
				return w
			}
			w.Delete = append(w.Delete, r.deployment.id)
		}
		delete(entries, r.deployment.token)
	}
	for _, r := range sets {
		dep := r.deployment
		if r.key != dep.digest {
			if w.Messages() == maxUnit {
				return w
			}
			w.Put = append(w.Put, Put{Deployment: dep.id, Score: dep.score})
		}
		if r.entry != dep.digest {
			entries[dep.token] = wire.ManifestEntry{Revision: dep.generation, Digest: dep.digest.Value()}
		}
	}
	return w
}

// nextGeneration is above all that anyone may have seen. At the end of the
// numbers it stays: only a device that reports nonsense gets there, and what is
// stored for it must still be taken back.
func (d *device) nextGeneration() uint64 {
	return min(max(d.generation, d.issued, d.agent)+1, wire.MaxGeneration)
}
