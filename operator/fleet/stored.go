package fleet

import (
	"slices"
	"strings"
	"unique"

	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func internDigest(d score.Digest) digest {
	if d == "" {
		return digest{}
	}
	return unique.Make(d)
}

// LoadManifest tells what manifest the broker's store holds for a device, and
// whether it is signed as it would be now. It is ignored while a write to the
// device is not certain to have ended.
func (f *Fleet) LoadManifest(id wire.DeviceID, m wire.Manifest, signed bool) {
	d := f.device(id)
	if d.flight != nil {
		return
	}
	for token := range m.Deployments {
		namespace, name, _ := strings.Cut(token, ".")
		f.record(d, f.deployment(wire.DeploymentID{Namespace: namespace, Name: name}))
	}
	f.storeManifest(d, m)
	d.foreign = !signed
	f.replan(d)
}

// LoadStored tells that the broker's store holds a score with this digest. It is
// ignored while a write to the device is not certain to have ended.
func (f *Fleet) LoadStored(id wire.DeviceID, dep wire.DeploymentID, stored score.Digest) {
	d := f.device(id)
	if d.flight != nil {
		return
	}
	r := f.record(d, f.deployment(dep))
	r.key = internDigest(stored)
	f.stow(d, r)
	f.replan(d)
}

// storeManifest makes the device's records say what a stored manifest says. The
// device has a record for each of the manifest's entries.
func (f *Fleet) storeManifest(d *device, m wire.Manifest) {
	d.generation = m.Generation
	d.issued = max(d.issued, m.Generation)
	d.notAfter, d.foreign, d.written = m.NotAfter.Unix(), false, 0
	if !m.HoldUntil.IsZero() {
		d.written = m.HoldUntil.Unix()
	}
	for i := range d.records {
		r := &d.records[i]
		entry := m.Deployments[r.deployment.token]
		r.entry, r.revision = internDigest(entry.Digest), entry.Revision
		f.stow(d, r)
	}
	f.prune(d)
}

// ResetStored forgets what is believed stored and withdraws Converge. Its caller
// first waits for the writes in flight to end, then loads the store anew with
// LoadManifest and LoadStored, and calls Converge. Generations go on from where
// they were.
func (f *Fleet) ResetStored() {
	f.converged = false
	f.epoch++
	f.inFlight = 0
	for _, d := range f.devices {
		d.flight, d.sent = nil, false
		for i := range d.records {
			r := &d.records[i]
			r.key, r.flying = digest{}, false
		}
		f.storeManifest(d, wire.Manifest{})
		f.replan(d)
	}
}

// Unowned lists the Deployments that are stored for some device and have no
// resource as far as is known, in the order of namespace and name. A live read
// must confirm it (ConfirmGone) before anything is deleted.
func (f *Fleet) Unowned() []wire.DeploymentID {
	if !f.converged {
		return nil
	}
	var unowned []wire.DeploymentID
	for id, dep := range f.deployments {
		if !dep.known && !dep.gone && dep.holders.len() > 0 {
			unowned = append(unowned, id)
		}
	}
	slices.SortFunc(unowned, compareIDs)
	return unowned
}

// ConfirmGone tells that a live read found no such Deployment. It has no effect
// on one that has been set since.
func (f *Fleet) ConfirmGone(id wire.DeploymentID) {
	if dep := f.deployments[id]; dep != nil && !dep.known {
		dep.gone = true
		f.replanAll(dep)
	}
}

// HeldBy counts the devices for which the Deployment is stored, or being written.
func (f *Fleet) HeldBy(id wire.DeploymentID) int {
	if dep := f.deployments[id]; dep != nil {
		return dep.holders.len()
	}
	return 0
}
