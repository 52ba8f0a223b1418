package fleet

import (
	"hash/fnv"
	"io"

	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Grant is which secrets one device may read from now on, and no others.
type Grant struct {
	Device wire.DeviceID
	// Secrets in the order of namespace, Deployment and name.
	Secrets []secret.Ref

	sum uint64 // of Secrets
}

// granted is what a device may read, as far as that is known.
type granted struct {
	sum    uint64 // of the secrets; 0 when it is not known
	some   bool   // there are any
	queued bool   // in Fleet.regrants
}

// regrant puts a device on the list of those whose secrets may have moved.
func (f *Fleet) regrant(d *device) {
	if f.options.Secrets && !d.granted.queued {
		d.granted.queued = true
		f.regrants = append(f.regrants, d)
	}
}

// AuditGrants forgets what is known of the devices that may read secrets, so that
// all of it is taken anew.
func (f *Fleet) AuditGrants() {
	for _, d := range f.devices {
		if d.granted.some {
			d.granted.sum = 0
			f.regrant(d)
		}
	}
}

// TakeGrants takes at most limit grants that are not known to be made. Each is
// taken before the manifest for which it is needed is certain to be stored.
func (f *Fleet) TakeGrants(limit int) []Grant {
	if !f.converged {
		return nil
	}
	var taken []Grant
	for len(f.regrants) > 0 && len(taken) < limit {
		d := f.regrants[0]
		f.regrants, d.granted.queued = f.regrants[1:], false
		if !d.known && !d.removed {
			continue // it is not known what it shall run
		}
		g := Grant{Device: d.id, Secrets: d.secrets()}
		if g.sum = sum(g.Secrets); g.sum != d.granted.sum {
			taken = append(taken, g)
		}
	}
	return taken
}

// Granted tells how a grant ended. One that may not be made is taken again.
func (f *Fleet) Granted(g Grant, ok bool) {
	d := f.byID[g.Device]
	d.granted.sum, d.granted.some = g.sum, len(g.Secrets) > 0
	if !ok {
		d.granted.sum = 0
		f.regrant(d)
	}
}

// secrets are those that the Deployments name which the device has, or shall have
// with its next writes.
func (d *device) secrets() []secret.Ref {
	if d.removed {
		return nil
	}
	drops, sets, _ := d.changes()
	moves := map[*record]bool{} // to being there, or not
	for _, r := range drops {
		moves[r] = false
	}
	for _, r := range sets {
		moves[r] = true
	}
	var refs []secret.Ref
	for i := range d.records {
		r := &d.records[i]
		there, moved := moves[r]
		if !moved {
			there = r.entry != digest{}
		}
		for _, name := range r.deployment.secrets {
			if there {
				refs = append(refs, secret.Ref{Deployment: r.deployment.id, Name: name})
			}
		}
	}
	return refs
}

// sum tells sets of secrets apart; it is never 0.
func sum(refs []secret.Ref) uint64 {
	hash := fnv.New64a()
	for _, ref := range refs {
		_, _ = io.WriteString(hash, ref.Path()+"\n") // never fails
	}
	return max(hash.Sum64(), 1)
}
