package fleet

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Options of a Fleet.
type Options struct {
	// HeartbeatTimeout is how long after its last heartbeat a device counts as
	// unreachable; 0 means wire.HeartbeatTimeout.
	HeartbeatTimeout time.Duration
}

// Fleet is everything that the operator knows, and what follows from it.
type Fleet struct {
	options   Options
	converged bool
}

// New returns an empty Fleet that has not converged.
func New(o Options) *Fleet {
	if o.HeartbeatTimeout == 0 {
		o.HeartbeatTimeout = wire.HeartbeatTimeout
	}
	return &Fleet{options: o}
}

// Deployment is what the core needs of a Deployment resource.
type Deployment struct {
	ID         wire.DeploymentID
	UID        string
	Generation int64
	Selector   metav1.LabelSelector
	// Score in its canonical encoding, and the digest of it.
	Score  []byte
	Digest score.Digest
	// Paused holds what is stored as it is. Deleting takes all of it back,
	// paused or not.
	Paused, Deleting bool
	// Invalid says why the spec cannot be carried out; "" when it can. While it
	// is set, what is stored stays as it is.
	Invalid string
	// Status as the resource has it: transition times go on from it, and what
	// it says already is not patched again.
	Status v1alpha1.DeploymentStatus
}

// DeploymentFrom reads a resource. Whatever is wrong with it is in Invalid.
func DeploymentFrom(cr *v1alpha1.Deployment) Deployment { return Deployment{} }

// SetDeployment tells that a Deployment was seen or has changed.
func (f *Fleet) SetDeployment(d Deployment) {}

// RemoveDeployment tells that a Deployment is certainly gone: what is stored of
// it is taken back.
func (f *Fleet) RemoveDeployment(id wire.DeploymentID) {}

// SetDevice tells what a Device resource says. The label device-id is id,
// whatever labels say.
func (f *Fleet) SetDevice(id wire.DeviceID, labels map[string]string, conditions []metav1.Condition) {
}

// RemoveDevice tells that a Device resource is certainly gone: its keys are
// deleted and its manifest is written empty. The empty manifest stays in the
// store, so that the generation goes on from there if the device comes back.
func (f *Fleet) RemoveDevice(id wire.DeviceID) {}

// ObserveState tells what a device reported of a Deployment; nil means that the
// key is deleted. The last call for a key holds. at is the broker's time.
func (f *Fleet) ObserveState(id wire.DeviceID, dep wire.DeploymentID, s *wire.DeviceState, at time.Time) {
}

// ObserveHeartbeat tells of a sign of life, at the broker's time.
func (f *Fleet) ObserveHeartbeat(id wire.DeviceID, h wire.Heartbeat, at time.Time) {}

// LoadManifest tells what manifest the broker's store holds for a device. It is
// ignored while a write to the device is in flight.
func (f *Fleet) LoadManifest(id wire.DeviceID, m wire.Manifest) {}

// LoadStored tells that the broker's store holds a score with this digest. It is
// ignored while a write to the device is in flight.
func (f *Fleet) LoadStored(id wire.DeviceID, dep wire.DeploymentID, d score.Digest) {}

// ResetStored forgets what is believed stored and withdraws Converge. The
// caller waits for the writes in flight, loads the store anew with LoadManifest
// and LoadStored, and calls Converge.
func (f *Fleet) ResetStored() { f.converged = false }

// ResetStates forgets all states and withdraws Converge: the bucket is replayed
// from the start. The caller calls Converge at the end of the replay.
func (f *Fleet) ResetStates() { f.converged = false }

// Converge tells that every source has been replayed whole, so that effects may
// begin. Before, nothing is taken from a Fleet.
func (f *Fleet) Converge() { f.converged = true }

// Converged reports whether effects may be taken.
func (f *Fleet) Converged() bool { return f.converged }

// TakeWrites takes desired state to write, at most maxMessages messages but at
// least one write when there is any. What is taken is in flight until Written,
// and there is at most one write in flight for a device.
func (f *Fleet) TakeWrites(maxMessages int) []DeviceWrite { return nil }

// Written tells how a write ended. One that is not certain to be stored (ok is
// false) is taken again as it was.
func (f *Fleet) Written(w DeviceWrite, ok bool) {}

// TakeStatus takes at most limit statuses that changed, oldest change first, and
// each Deployment at most once a second. What is taken is in flight until
// StatusWritten.
func (f *Fleet) TakeStatus(now time.Time, limit int) []StatusPatch { return nil }

// StatusWritten tells how a patch ended. A Deployment that is not there any more
// counts as written.
func (f *Fleet) StatusWritten(p StatusPatch, ok bool) {}

// TakeDevices takes at most limit Devices whose conditions moved. What is taken
// is in flight until DeviceWritten.
func (f *Fleet) TakeDevices(now time.Time, limit int) []DevicePatch { return nil }

// DeviceWritten tells how a patch ended. A Device that is not there any more
// counts as written.
func (f *Fleet) DeviceWritten(p DevicePatch, ok bool) {}

// Unowned lists the Deployments that are stored for some device and have no
// resource as far as is known, in the order of their tokens. A live read must
// confirm it (ConfirmGone) before anything is deleted.
func (f *Fleet) Unowned() []wire.DeploymentID { return nil }

// ConfirmGone tells that a live read found no such Deployment. It has no effect
// on one that has been set since.
func (f *Fleet) ConfirmGone(id wire.DeploymentID) {}

// HeldBy counts the devices for which the Deployment is stored, or being written.
func (f *Fleet) HeldBy(id wire.DeploymentID) int { return 0 }

// Matches lists the devices that a selector matches, in the order of their ids.
// It fails when the selector is not valid; an empty one matches nothing.
func (f *Fleet) Matches(selector metav1.LabelSelector) ([]wire.DeviceID, error) { return nil, nil }

// Audit recounts the next sample Deployments from scratch, round robin. Every
// Difference is a bug of this package.
func (f *Fleet) Audit(sample int) []Difference { return nil }

// Stats summarises.
func (f *Fleet) Stats() Stats { return Stats{} }
