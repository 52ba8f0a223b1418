package fleet

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// holding is what is known of a device's holds. Times are Unix seconds, 0 for none.
type holding struct {
	// asked is what the resource asks for, and written what the stored manifest says.
	asked, written int64
	// held is what the device says of itself.
	held holder
}

// holder is whose hold a condition is about, and until when.
type holder struct {
	reason heldReason
	until  int64
}

// heldReason is the reason of Held in a byte.
type heldReason uint8

const (
	notHeld heldReason = iota
	heldByDevice
	heldByCluster
	invalidHold
)

// heldReasons are the words for them.
var heldReasons = [...]string{"", v1alpha1.ReasonHeldByDevice, v1alpha1.ReasonHeldByCluster, v1alpha1.ReasonInvalidHold}

// SetHold tells what a Device resource says in its annotation hold-until; "" for none.
func (f *Fleet) SetHold(id wire.DeviceID, annotation string) {
	d := f.device(id)
	var asked int64
	until, err := time.Parse(time.RFC3339, annotation)
	if err == nil {
		asked = until.Unix()
	}
	malformed := annotation != "" && (err != nil || asked <= 0)
	if malformed {
		asked = 0
	}
	if d.asked != asked {
		d.asked = asked
		f.replan(d)
	}
	d.oddHold = malformed
	f.touchDevice(d)
}

// ObserveHold tells what a device says of itself; nil when it is not held.
func (f *Fleet) ObserveHold(id wire.DeviceID, h *wire.Hold) {
	d := f.device(id)
	d.held = holder{}
	if h != nil {
		d.held = holder{reason: heldByDevice, until: h.Until.Unix()}
		if h.By == wire.HeldByCluster {
			d.held.reason = heldByCluster
		}
	}
	f.touchDevice(d)
}

// holdUntil is what the next manifest of the device says. That of a device without a
// resource goes on as it is stored, until the resource is certainly gone.
func (d *device) holdUntil() int64 {
	switch {
	case d.known:
		return d.asked
	case d.removed:
		return 0
	}
	return d.written
}

// heldCondition is the condition Held in little space: its message follows from until.
type heldCondition struct {
	deviceCondition
	holder
}

// become is the condition with now as the time when its status moved.
func (c heldCondition) become(d *device, now int64) heldCondition {
	next := heldCondition{holder: d.held}
	switch {
	case d.held.reason != notHeld:
		next.deviceCondition = c.deviceCondition.become(isTrue, now)
	case d.oddHold:
		next.holder = holder{reason: invalidHold}
		next.deviceCondition = c.deviceCondition.become(isFalse, now)
	}
	return next
}

// condition is what the resource has of it.
func (c heldCondition) condition() metav1.Condition {
	held := metav1.Condition{
		Type: v1alpha1.ConditionHeld, Status: metav1.ConditionTrue, Reason: heldReasons[c.reason],
		Message:            heldUntil + time.Unix(c.until, 0).UTC().Format(time.RFC3339),
		LastTransitionTime: metav1.Unix(c.since, 0),
	}
	if c.status != isTrue {
		held.Status, held.Message = metav1.ConditionFalse, malformedHold
	}
	return held
}

const (
	// heldUntil begins the message of a hold, before its end.
	heldUntil = "Nothing is changed until "
	// malformedHold is what a mistake says.
	malformedHold = "Annotation " + v1alpha1.AnnotationHoldUntil + ` is no time: write one such as "2026-12-01T06:00:00Z"`
)

// readHeld takes a condition's own part from the resource. What is not as condition
// wrote it is written anew.
func readHeld(one metav1.Condition) (h holder) {
	for reason, word := range heldReasons {
		if word == one.Reason {
			h.reason = heldReason(reason)
		}
	}
	if len(one.Message) > len(heldUntil) {
		if until, err := time.Parse(time.RFC3339, one.Message[len(heldUntil):]); err == nil {
			h.until = until.Unix()
		}
	}
	return h
}
