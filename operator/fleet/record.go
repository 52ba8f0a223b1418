package fleet

import (
	"cmp"
	"slices"
	"unique"

	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// digest is an interned score.Digest: one word, compared by one. Its zero value
// is no digest.
type digest = unique.Handle[score.Digest]

// record is what is known of one Deployment on one device. A device keeps its
// records in the order of their Deployments' ids; one that says nothing is
// dropped.
type record struct {
	deployment *deployment
	// state is the digest that the last report speaks of, entry the one in the
	// stored manifest, key the one of the stored score.
	state, entry, key digest
	// revision of the entry.
	revision int64
	// phase that the last report says.
	phase phase
	// class is what the record is counted as; settle keeps it so.
	class class
	// matched: the selector matches the device. found is a mark of rematch.
	// flying: a write that stores the Deployment is on its way.
	matched, found, flying bool
}

// stored reports whether the store holds something of the Deployment, or may
// soon.
func (r *record) stored() bool {
	return r.entry != digest{} || r.key != digest{} || r.flying
}

func (r *record) empty() bool { return !r.matched && r.state == digest{} && !r.stored() }

// phase is wire.Phase in a byte.
type phase uint8

const (
	pending phase = iota
	succeeded
	failed
)

func phaseOf(p wire.Phase) phase {
	switch p {
	case wire.PhaseSucceeded:
		return succeeded
	case wire.PhaseFailed:
		return failed
	}
	return pending
}

// class is what a record counts as: one of the phases, on a reachable or an
// unreachable device, or nothing.
type class uint8

const (
	uncounted  class = iota
	numClasses       = 7
)

func classOf(p phase, reachable bool) class {
	c := class(1 + 2*p)
	if !reachable {
		c++
	}
	return c
}

func (c class) failed() bool { return c == classOf(failed, true) || c == classOf(failed, false) }

// find is the device's record of a Deployment; nil when there is none. It is
// valid until a record is added or dropped.
func (d *device) find(dep *deployment) *record {
	// Most devices have a few records, and comparing pointers beats comparing
	// names.
	if len(d.records) <= 8 {
		for i := range d.records {
			if d.records[i].deployment == dep {
				return &d.records[i]
			}
		}
		return nil
	}
	if at, found := d.search(dep.id); found {
		return &d.records[at]
	}
	return nil
}

func (d *device) search(id wire.DeploymentID) (at int, found bool) {
	return slices.BinarySearchFunc(d.records, id, func(r record, id wire.DeploymentID) int {
		return compareIDs(r.deployment.id, id)
	})
}

func compareIDs(a, b wire.DeploymentID) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// record is find, and adds a record when there is none.
func (f *Fleet) record(d *device, dep *deployment) *record {
	if r := d.find(dep); r != nil {
		return r
	}
	at, _ := d.search(dep.id)
	d.records = slices.Insert(d.records, at, record{deployment: dep})
	dep.records++
	return &d.records[at]
}

// prune drops the records that say nothing any more, and with them the
// Deployments that nobody speaks of.
func (f *Fleet) prune(d *device) {
	if !slices.ContainsFunc(d.records, func(r record) bool { return r.empty() }) {
		return
	}
	d.records = slices.DeleteFunc(d.records, func(r record) bool {
		if r.empty() {
			r.deployment.records--
			f.freeDeployment(r.deployment)
			return true
		}
		return false
	})
}

// settle moves the counters of a record from the class that it was counted as to
// the one that it has.
func (f *Fleet) settle(d *device, r *record) {
	now := uncounted
	if dep := r.deployment; r.matched {
		p := pending
		if dep.digest != (digest{}) && r.state == dep.digest {
			p = r.phase
		}
		now = classOf(p, d.reachable)
	}
	if now == r.class {
		return
	}
	if r.class.failed() || now.failed() {
		r.deployment.errorsMoved = true
	}
	r.deployment.counts[r.class]--
	r.deployment.counts[now]++
	r.class = now
	f.touch(r.deployment)
}

// stow keeps a Deployment's set of holders true to a record's stored.
func (f *Fleet) stow(d *device, r *record) {
	if r.stored() {
		r.deployment.holders.add(d.slot)
	} else {
		r.deployment.holders.remove(d.slot)
	}
}
