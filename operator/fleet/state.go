package fleet

import (
	"time"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// failure is what a device last said of a Deployment in phase Failed.
type failure struct {
	at   int64 // broker's time, Unix nanoseconds
	text unique.Handle[errorText]
}

// errorText is interned: when a release is broken, thousands of devices say the
// same.
type errorText struct{ reason, message string }

// ObserveState tells what a device reported of a Deployment; nil means that the
// key is deleted. The last call for a key holds. at is the broker's time. It is
// false when there is no room for it: the device reports on more Deployments that
// are not its own than wire.MaxDeploymentsPerDevice.
func (f *Fleet) ObserveState(id wire.DeviceID, deployment wire.DeploymentID, s *wire.DeviceState, at time.Time) bool {
	d, dep := f.byID[id], f.deployments[deployment]
	var r *record
	if d != nil && dep != nil {
		r = d.find(dep)
	}
	switch {
	case s == nil && r == nil:
		return true
	case s == nil:
		f.clearState(d, r)
		f.prune(d)
		return true
	case r == nil:
		d = f.device(id)
		if d.strangers() >= wire.MaxDeploymentsPerDevice {
			f.droppedStates++
			return false
		}
		r = f.record(d, f.deployment(deployment))
	}
	f.setState(d, r, s, at)
	return true
}

// strangers counts the states of Deployments that are neither matched nor
// stored: a device can make up as many as it likes.
func (d *device) strangers() int {
	if len(d.records) < wire.MaxDeploymentsPerDevice {
		return 0
	}
	n := 0
	for i := range d.records {
		if r := &d.records[i]; !r.matched && !r.stored() {
			n++
		}
	}
	return n
}

func (f *Fleet) setState(d *device, r *record, s *wire.DeviceState, at time.Time) {
	was, is := r.phase, phaseOf(s.Phase)
	known := r.state != digest{} && r.state.Value() == s.Digest
	if known && was == is && is != failed {
		return
	}
	if at.After(f.clock) {
		f.clock = at
	}
	if r.state == (digest{}) && r.deployment.held() {
		f.replan(d) // it may be one that the store has lost
	}
	if !known {
		r.state = unique.Make(s.Digest)
	}
	var errorMoved bool
	if r.phase = is; is == failed {
		errorMoved = setFailure(d, r.deployment, s, at)
	} else if was == failed {
		delete(r.deployment.failures, d.slot)
	}
	f.settle(d, r)
	if errorMoved && r.class.failed() {
		r.deployment.errorsMoved = true
		f.touch(r.deployment)
	}
}

// setFailure reports whether it is another failure than the one before.
func setFailure(d *device, dep *deployment, s *wire.DeviceState, at time.Time) bool {
	text := errorText{reason: s.Reason, message: s.Message}
	if old, found := dep.failures[d.slot]; found && old.at == at.UnixNano() && old.text.Value() == text {
		return false
	}
	if dep.failures == nil {
		dep.failures = map[uint32]failure{}
	}
	dep.failures[d.slot] = failure{at: at.UnixNano(), text: unique.Make(text)}
	return true
}

func (f *Fleet) clearState(d *device, r *record) {
	delete(r.deployment.failures, d.slot)
	r.state, r.phase = digest{}, pending
	f.settle(d, r)
}

// ForgetStates tells that all states of a device are purged: whoever has its id next
// has reported nothing.
func (f *Fleet) ForgetStates(id wire.DeviceID) {
	d := f.byID[id]
	if d == nil {
		return
	}
	for i := range d.records {
		f.clearState(d, &d.records[i])
	}
	f.prune(d)
}

// ResetStates forgets all states and withdraws Converge: the bucket is replayed
// from the start. The caller calls Converge at the end of the replay.
func (f *Fleet) ResetStates() {
	f.converged = false
	for _, d := range f.devices {
		f.ForgetStates(d.id)
	}
}

// lastError is the newest error among the devices that count as failed; of two
// at the same time, that of the lower device id. It is looked for once for each
// patch, and only when an error came or went.
func (f *Fleet) lastError(dep *deployment) *v1alpha1.LastError {
	var newest *device
	var found failure
	for slot, fail := range dep.failures {
		d := f.devices[slot]
		if !d.find(dep).class.failed() {
			continue
		}
		if newest == nil || fail.at > found.at || fail.at == found.at && d.id < newest.id {
			newest, found = d, fail
		}
	}
	if newest == nil {
		return nil
	}
	text := found.text.Value()
	return &v1alpha1.LastError{
		Device: string(newest.id), Reason: text.reason, Message: text.message,
		Time: metav1.NewTime(time.Unix(0, found.at).UTC().Truncate(time.Second)),
	}
}
