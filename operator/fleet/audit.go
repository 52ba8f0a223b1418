package fleet

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Audit recounts the next sample Deployments from scratch, round robin. Every
// Difference is a bug of this package. Its cost is the number of devices for
// each Deployment.
func (f *Fleet) Audit(sample int) []Difference {
	ids := slices.SortedFunc(maps.Keys(f.deployments), compareIDs)
	start, found := slices.BinarySearchFunc(ids, f.audited, compareIDs)
	if found {
		start++
	}
	var all []Difference
	for i := range min(sample, len(ids)) {
		f.audited = ids[(start+i)%len(ids)]
		all = append(all, f.auditOne(f.deployments[f.audited])...)
	}
	return all
}

func (f *Fleet) auditOne(dep *deployment) []Difference {
	// By another way than the index goes: Kubernetes' own selector on each
	// device's labels.
	chosen := labels.Nothing()
	if required, err := requirements(dep.source); err == nil && len(required) > 0 {
		chosen = labels.NewSelector().Add(required...)
	}
	var held, matched int
	var counts [numClasses]int32
	for _, d := range f.devices {
		r := d.find(dep)
		if r != nil && r.stored() {
			held++
		}
		if !d.known || !chosen.Matches(d.labelSet()) {
			continue
		}
		matched++
		p := pending
		if r != nil && r.state != (digest{}) && r.state == dep.digest {
			p = r.phase
		}
		counts[classOf(p, d.reachable)]++
	}
	var found []Difference
	compare := func(counter string, counted, recounted int) {
		if counted != recounted {
			found = append(found, Difference{Deployment: dep.id, Counter: counter, Counted: counted, Recounted: recounted})
		}
	}
	compare("matched", dep.matched.len(), matched)
	compare("held", dep.holders.len(), held)
	for name, p := range map[string]phase{"pending": pending, "succeeded": succeeded, "failed": failed} {
		for where, reachable := range map[string]bool{"reachable": true, "unreachable": false} {
			c := classOf(p, reachable)
			compare(name+" "+where, int(dep.counts[c]), int(counts[c]))
		}
	}
	return found
}

func (d *device) labelSet() labels.Set {
	all := labels.Set{}
	for _, pair := range d.labels {
		all[pair.key.name] = pair.value
	}
	return all
}

// Matches lists the devices that a selector matches, in the order of their ids.
// It fails when the selector is not valid; an empty one matches nothing.
func (f *Fleet) Matches(from metav1.LabelSelector) ([]wire.DeviceID, error) {
	s, err := f.index.compile(from, nil)
	if err != nil {
		return nil, err
	}
	defer f.index.release(s)
	var ids []wire.DeviceID
	for _, slot := range f.index.find(s).ToArray() {
		ids = append(ids, f.devices[slot].id)
	}
	slices.Sort(ids)
	return ids, nil
}

// Stats summarises.
func (f *Fleet) Stats() Stats {
	s := Stats{
		Devices: f.known, Reachable: f.reachable, Deployments: f.knownDeployments, Assignments: f.assignments,
		PendingWrites: len(f.dirty) + f.inFlight, DirtyStatuses: len(f.moved),
		OverLimit: f.overLimit, DroppedStates: f.droppedStates, Evaluations: f.evaluations,
	}
	if len(f.moved) > 0 {
		s.OldestDirty = f.moved[0].since
	}
	return s
}
