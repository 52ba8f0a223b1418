package fleet

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// deviceConditions are a Device's conditions in little space: their reasons and
// messages follow from the rest.
type deviceConditions struct {
	reachable, conflict deviceCondition
	held                heldCondition
}

type deviceCondition struct {
	status condition
	since  int64 // lastTransitionTime, Unix seconds
}

// condition is metav1.ConditionStatus in a byte.
type condition uint8

const (
	absent condition = iota
	isFalse
	isTrue
)

func readConditions(from []metav1.Condition) deviceConditions {
	var c deviceConditions
	for _, one := range from {
		into := &deviceCondition{}
		switch one.Type {
		case v1alpha1.ConditionReachable:
			into = &c.reachable
		case v1alpha1.ConditionIdentityConflict:
			into = &c.conflict
		case v1alpha1.ConditionHeld:
			into = &c.held.deviceCondition
			c.held.holder = readHeld(one)
		}
		switch into.since = one.LastTransitionTime.Unix(); one.Status {
		case metav1.ConditionTrue:
			into.status = isTrue
		case metav1.ConditionFalse:
			into.status = isFalse
		}
	}
	return c
}

// adopt takes over the conditions that the resource has, and reports whether
// they are news. A cache may show older ones than those just written; a resource
// without any was never written, or was made anew.
func (d *device) adopt(conditions []metav1.Condition) bool {
	has := readConditions(conditions)
	stale := has.reachable.status != absent &&
		has.latest() < d.shown.latest()
	if d.patching || stale || has == d.shown {
		return false
	}
	d.shown = has
	return true
}

// latest is when the last of the conditions moved.
func (c deviceConditions) latest() int64 {
	return max(c.reachable.since, c.conflict.since, c.held.since)
}

// resume goes on with what the operator saw before it was started anew: a
// conflict, and a device that was reachable and is given the time to be heard.
func (f *Fleet) resume(d *device, conditions []metav1.Condition) {
	saw := readConditions(conditions)
	if d.conflictAt == 0 && saw.conflict.status == isTrue {
		d.conflictAt = adopted
	}
	if saw.reachable.status == isTrue {
		d.spared = f.hearingSince
		f.setReachable(d, true)
	}
}

// wanted is what the conditions shall be, with now as the time of what moved.
func (d *device) wanted(now int64) deviceConditions {
	var c deviceConditions
	c.reachable = d.shown.reachable.become(isFalse, now)
	if d.reachable {
		c.reachable = d.shown.reachable.become(isTrue, now)
	}
	if d.conflict {
		c.conflict = d.shown.conflict.become(isTrue, now)
	}
	c.held = d.shown.held.become(d, now)
	return c
}

func (c deviceCondition) become(status condition, now int64) deviceCondition {
	if c.status == status {
		return c
	}
	return deviceCondition{status: status, since: now}
}

// touchDevice puts a device on the list of those whose conditions may have
// moved.
func (f *Fleet) touchDevice(d *device) {
	if !d.queued && d.known && d.wanted(0) != d.shown {
		d.queued = true
		f.movedDevices = append(f.movedDevices, d)
	}
}

// TakeDevices takes at most limit Devices whose conditions moved. What is taken
// is in flight until DeviceWritten.
func (f *Fleet) TakeDevices(now time.Time, limit int) []DevicePatch {
	if !f.converged {
		return nil
	}
	f.advance(now)
	var taken []DevicePatch
	waiting := f.movedDevices[:0]
	for _, d := range f.movedDevices {
		wanted := d.wanted(now.Unix())
		switch {
		case d.known && wanted != d.shown && (d.patching || len(taken) >= limit):
			waiting = append(waiting, d)
			continue
		case d.known && wanted != d.shown:
			d.patching = true
			taken = append(taken, DevicePatch{ID: d.id, Conditions: d.conditions(wanted), Event: d.event(wanted)})
		}
		d.queued = false
	}
	f.movedDevices = waiting
	return taken
}

// DeviceWritten tells how a patch ended. A Device that is not there any more
// counts as written.
func (f *Fleet) DeviceWritten(p DevicePatch, ok bool) {
	d := f.byID[p.ID]
	if d == nil || !d.patching {
		return
	}
	d.patching = false
	if ok {
		d.shown = readConditions(p.Conditions)
	}
	f.touchDevice(d)
}

// event tells people of a conflict that begins, or of a hold that is a mistake.
func (d *device) event(wanted deviceConditions) *Event {
	switch {
	case wanted.conflict.status == isTrue && d.shown.conflict.status != isTrue:
		return &Event{Type: corev1.EventTypeWarning, Reason: v1alpha1.ReasonTwoAgents, Message: twoAgents}
	case wanted.held.reason == invalidHold && d.shown.held.reason != invalidHold:
		return &Event{Type: corev1.EventTypeWarning, Reason: v1alpha1.ReasonInvalidHold, Message: malformedHold}
	}
	return nil
}

// twoAgents is what a conflict says.
const twoAgents = "Two agents use this device id: give one of them another"

func (d *device) conditions(c deviceConditions) []metav1.Condition {
	reachable := metav1.Condition{
		Type: v1alpha1.ConditionReachable, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonHeartbeat, Message: "Heartbeats arrive",
		LastTransitionTime: metav1.Unix(c.reachable.since, 0),
	}
	if c.reachable.status != isTrue {
		reachable.Status, reachable.Reason, reachable.Message = metav1.ConditionFalse, v1alpha1.ReasonHeartbeatMissed, "Heartbeats have stopped"
		if d.lastSeen == 0 {
			reachable.Reason, reachable.Message = v1alpha1.ReasonNeverSeen, "No heartbeat is on record"
		}
	}
	all := []metav1.Condition{reachable}
	if c.conflict.status == isTrue {
		all = append(all, metav1.Condition{
			Type: v1alpha1.ConditionIdentityConflict, Status: metav1.ConditionTrue,
			Reason: v1alpha1.ReasonTwoAgents, Message: twoAgents,
			LastTransitionTime: metav1.Unix(c.conflict.since, 0),
		})
	}
	if c.held.status != absent {
		all = append(all, c.held.condition())
	}
	return all
}
