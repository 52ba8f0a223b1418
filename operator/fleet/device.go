package fleet

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// device is one device that anything was heard of. It is kept for good, however
// little is left of it: its generation must never go back.
type device struct {
	id   wire.DeviceID
	slot uint32
	// known: it has a resource. removed: it had one that is certainly gone.
	// reachable: its last heartbeat is recent. They stand here, beside records,
	// because a state touches them and nothing else of a device.
	known, removed, reachable bool
	// oddHold: nobody can tell until when the resource wants it held. It stands here
	// for want of space elsewhere.
	oddHold bool
	records []record
	labels  []*labelPair

	desired
	presence
	holding
	granted granted
}

// device finds or adds a device.
func (f *Fleet) device(id wire.DeviceID) *device {
	d := f.byID[id]
	if d == nil {
		// A clone: the id may be a part of a message's subject.
		d = &device{id: wire.DeviceID(strings.Clone(string(id))), slot: uint32(len(f.devices))}
		d.timer = noTimer
		f.devices = append(f.devices, d)
		f.byID[d.id] = d
	}
	return d
}

// SetDevice tells what a Device resource says. The label device-id is id,
// whatever labels say.
func (f *Fleet) SetDevice(id wire.DeviceID, labels map[string]string, conditions []metav1.Condition) {
	d := f.device(id)
	if !d.known {
		d.known, d.removed = true, false
		f.known++
		f.index.all.add(d.slot)
		f.relabel(d, labels)
		f.resume(d, conditions)
		f.check(d)
		f.replan(d)
	} else {
		f.relabel(d, labels)
	}
	if d.adopt(conditions) {
		f.check(d)
	}
}

// RemoveDevice tells that a Device resource is certainly gone: its keys are
// deleted and its manifest is written empty. The empty manifest stays in the
// store, so that the generation goes on from there if the device comes back.
func (f *Fleet) RemoveDevice(id wire.DeviceID) {
	d := f.byID[id]
	if d == nil || !d.known {
		return
	}
	f.index.relabel(d.slot, d.labels, nil)
	f.index.all.remove(d.slot)
	d.labels = nil
	for i := range d.records {
		if r := &d.records[i]; r.matched {
			f.unmatch(d, r)
		}
	}
	f.prune(d)
	f.depart(d)
	d.asked, d.oddHold, d.held = 0, false, holder{}
	d.known, d.removed = false, true
	f.known--
	f.replan(d)
}

// relabel gives a device these labels, apart from device-id, which is its own.
func (f *Fleet) relabel(d *device, labels map[string]string) {
	want := len(labels)
	if _, claimed := labels[v1alpha1.LabelDeviceID]; !claimed {
		want++
	}
	pairs := make([]*labelPair, 0, want)
	for _, pair := range d.labels {
		if value, found := labels[pair.key.name]; pair.key.name == v1alpha1.LabelDeviceID || found && value == pair.value {
			pairs = append(pairs, pair)
		}
	}
	old, same := d.labels, pairs
	if len(same) == want && len(old) == want {
		return
	}
	if len(old) == 0 {
		pairs = append(pairs, f.index.pair(v1alpha1.LabelDeviceID, string(d.id)))
	}
	for name, value := range labels {
		kept := slices.ContainsFunc(same, func(pair *labelPair) bool { return pair.key.name == name })
		if !kept && name != v1alpha1.LabelDeviceID {
			pairs = append(pairs, f.index.pair(name, value))
		}
	}
	d.labels = pairs
	f.index.relabel(d.slot, old, pairs)
	f.rematch(d)
}

// rematch finds what the device matches after its labels moved. All of that is
// filed under what it carries now.
func (f *Fleet) rematch(d *device) {
	var gained []*deployment
	var misfiled []*selector
	f.index.candidates(d.labels, func(s *selector, held int) {
		f.evaluations++
		if !s.matches(d.labels, held) {
			if s.misfiled() {
				misfiled = append(misfiled, s)
			}
		} else if r := d.find(s.owner); r != nil && r.matched {
			r.found = true
		} else {
			gained = append(gained, s.owner)
		}
	})
	for _, s := range misfiled {
		f.index.unfile(s)
		s.order()
		f.index.file(s)
	}
	for i := range d.records {
		r := &d.records[i]
		if r.matched && !r.found {
			f.unmatch(d, r)
		}
		r.found = false
	}
	for _, dep := range gained {
		f.match(d, dep)
	}
	f.prune(d)
}

// match and unmatch move one pair of device and Deployment.
func (f *Fleet) match(d *device, dep *deployment) {
	r := f.record(d, dep)
	r.matched = true
	dep.matched.add(d.slot)
	f.assignments++
	f.settle(d, r)
	f.replan(d)
}

func (f *Fleet) unmatch(d *device, r *record) {
	r.matched = false
	r.deployment.matched.remove(d.slot)
	f.assignments--
	f.settle(d, r)
	f.replan(d)
}
