package fleet

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// DeviceWrite is one atomic write of a device's desired state: all of it is
// stored, or nothing. It is at most 1,000 messages: Put, Delete and the manifest.
type DeviceWrite struct {
	Device wire.DeviceID
	// Put and Delete are the keys to write and to delete, each in the order of
	// namespace and name. They have no key in common.
	Put    []Put
	Delete []wire.DeploymentID
	// Manifest to write; it names what is stored after this write.
	Manifest wire.Manifest

	epoch uint32 // of the load of the store that this write builds on
}

// Messages is how many messages the write takes.
func (w DeviceWrite) Messages() int { return len(w.Put) + len(w.Delete) + 1 }

// Put is one score to store.
type Put struct {
	Deployment wire.DeploymentID
	// Score is canonical, and shared: it must not be modified.
	Score []byte
}

// StatusPatch is the new status of one Deployment, whole.
type StatusPatch struct {
	ID wire.DeploymentID
	// UID of the resource that the status belongs to; one of the same name with
	// another UID must not get it.
	UID    string
	Status v1alpha1.DeploymentStatus
	// Event is set when the reason of Ready moved to one that people want to
	// hear of.
	Event *Event
	// Since is when the oldest change that this patch reports became known.
	Since time.Time
}

// Event is what a Kubernetes event says.
type Event struct {
	// Type is corev1's: "Normal" or "Warning".
	Type string
	// Reason is one of the condition reasons of v1alpha1.
	Reason  string
	Message string
}

// DevicePatch is the new conditions of one Device.
type DevicePatch struct {
	ID wire.DeviceID
	// Conditions are Reachable and, while there is reason for them, IdentityConflict
	// and Held: all that the operator owns, so that a missing one is to be removed.
	Conditions []metav1.Condition
	// Event is set when two agents were found to use the device's id, or when the
	// annotation that shall hold it says nothing.
	Event *Event
}

// Difference is a counter that an audit found wrong.
type Difference struct {
	Deployment wire.DeploymentID
	// Counter is the name of what was counted, such as "succeeded".
	Counter string
	// Counted is what the counter said, Recounted what is true.
	Counted, Recounted int
}

// Stats is a summary for metrics and logs.
type Stats struct {
	// Devices with a resource, and those of them with a recent heartbeat.
	Devices, Reachable int
	// Deployments with a resource.
	Deployments int
	// Assignments is the number of matching pairs of device and Deployment.
	Assignments int
	// PendingWrites is the number of devices whose desired state may still have
	// to be written, those in flight included.
	PendingWrites int
	// DirtyStatuses is the number of Deployments whose status may have moved
	// since it was last written; OldestDirty is since when, zero for none.
	DirtyStatuses int
	OldestDirty   time.Time
	// OverLimit is the number of assignments that found no room in a manifest
	// of wire.MaxDeploymentsPerDevice when it was last planned.
	OverLimit int
	// DroppedStates counts states of Deployments that were not assigned to the
	// device, beyond wire.MaxDeploymentsPerDevice of them.
	DroppedStates uint64
	// Evaluations counts selectors evaluated against single devices.
	Evaluations uint64
}
