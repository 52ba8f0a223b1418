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
	known, removed bool
	labels         []*labelPair
	records        []record

	desired
	presence
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
		f.rematch(d, nil)
		f.adoptConflict(d, conditions)
		f.check(d)
		f.replan(d)
	} else if !d.carries(labels) {
		f.rematch(d, f.relabel(d, labels))
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
	d.known, d.removed = false, true
	f.known--
	f.replan(d)
}

// carries reports whether the device has exactly these labels, apart from
// device-id, which it always has.
func (d *device) carries(labels map[string]string) bool {
	want := len(labels)
	if _, claimed := labels[v1alpha1.LabelDeviceID]; !claimed {
		want++
	}
	if len(d.labels) != want {
		return false
	}
	for _, pair := range d.labels {
		value, found := labels[pair.key.name]
		if pair.key.name != v1alpha1.LabelDeviceID && (!found || value != pair.value) {
			return false
		}
	}
	return true
}

func (f *Fleet) relabel(d *device, labels map[string]string) (changed []*labelKey) {
	pairs := make([]*labelPair, 0, len(labels)+1)
	pairs = append(pairs, f.index.pair(v1alpha1.LabelDeviceID, string(d.id)))
	for name, value := range labels {
		if name != v1alpha1.LabelDeviceID {
			pairs = append(pairs, f.index.pair(name, value))
		}
	}
	old := d.labels
	d.labels = slices.Clip(pairs)
	return f.index.relabel(d.slot, old, d.labels)
}

// rematch finds what the device matches after the labels of the changed keys
// moved; nil means that all did. Only selectors that mention one of these keys
// can have changed their mind, and of those only the ones that the device has
// already, or that are filed under what it carries.
func (f *Fleet) rematch(d *device, changed []*labelKey) {
	var lost, gained []*deployment
	for i := range d.records {
		if r := &d.records[i]; r.matched && (changed == nil || r.deployment.selector.mentions(changed)) {
			if !f.evaluate(r.deployment.selector, d) {
				lost = append(lost, r.deployment)
			}
		}
	}
	var misfiled []*selector
	consider := func(drawer map[*selector]struct{}) {
		for s := range drawer {
			if changed != nil && !s.mentions(changed) {
				continue
			}
			if r := d.find(s.owner); r != nil && r.matched {
				continue
			}
			if f.evaluate(s, d) {
				gained = append(gained, s.owner)
			} else if s.misfiled() {
				misfiled = append(misfiled, s)
			}
		}
	}
	for _, pair := range d.labels {
		consider(pair.filed)
		consider(pair.key.filed)
	}
	consider(f.index.always)

	for _, s := range misfiled {
		f.index.unfile(s)
		f.index.file(s)
	}
	for _, dep := range lost {
		f.unmatch(d, d.find(dep))
	}
	for _, dep := range gained {
		f.match(d, dep)
	}
	f.prune(d)
}

func (f *Fleet) evaluate(s *selector, d *device) bool {
	f.evaluations++
	return s.matches(d.labels)
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
