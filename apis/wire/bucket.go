package wire

import (
	"fmt"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/apis/score"
)

// Bucket is the shape of one key-value bucket. It is a JetStream stream that
// keeps the last message of each subject, never rolls up (a publisher could wipe
// the keys of others), refuses new messages when it is full rather than drop old
// ones, and answers Direct Gets.
type Bucket struct {
	// Name is what `nats kv ls` shows.
	Name string
	// Description is stored with the stream.
	Description string
	// MaxBytes bounds the whole stream; sized for 100,000 devices.
	MaxBytes int64
	// MaxMessageSize bounds one message with its headers, in bytes.
	MaxMessageSize int32
	// MaxAge drops messages that are older; 0 keeps them.
	MaxAge time.Duration
	// MaxConsumers bounds the consumers: the operator's, and people's who look.
	MaxConsumers int
	// LazySync lets the broker acknowledge a write before it is on the disk: the
	// last values may be lost in a power cut, and are sent again soon anyway.
	LazySync bool
	// AtomicPublish admits batches, and TTL admits messages that expire. Only
	// buckets that no device may write have them: a device could hold the
	// stream's 50 batch slots.
	AtomicPublish bool
	TTL           bool
	// Republish is the subject prefix under which each write is sent out once
	// more as a core message; "" for none.
	Republish string
}

// The four buckets.
var (
	// DesiredState holds scores and manifests.
	DesiredState = Bucket{
		Name: "desired-state", Description: "what each device shall run; written by the operator",
		MaxBytes: 4 << 30, MaxMessageSize: score.MaxBytes + 16<<10, MaxConsumers: 64,
		AtomicPublish: true, TTL: true, Republish: "fleet.desired",
	}
	// DeviceInfos holds labels and inventory.
	DeviceInfos = Bucket{
		Name: "device-info", Description: "labels and inventory of each device; written by its agent",
		MaxBytes: 1 << 30, MaxMessageSize: 32 << 10, MaxConsumers: 64,
	}
	// DeviceStates holds the phase of each Deployment on each device.
	DeviceStates = Bucket{
		Name: "device-state", Description: "how each deployment does on each device; written by its agent",
		MaxBytes: 2 << 30, MaxMessageSize: 16 << 10, MaxConsumers: 64,
	}
	// DeviceHeartbeats holds the last sign of life of each device.
	DeviceHeartbeats = Bucket{
		Name: "device-heartbeat", Description: "last sign of life of each device; written by its agent",
		MaxBytes: 256 << 20, MaxMessageSize: 1 << 10, MaxAge: 24 * time.Hour, MaxConsumers: 64,
		LazySync: true, Republish: "fleet.heartbeat",
	}
)

// Buckets lists all buckets in a fixed order.
func Buckets() []Bucket {
	return []Bucket{DesiredState, DeviceInfos, DeviceStates, DeviceHeartbeats}
}

// DuplicateWindow is how long a stream remembers message ids. Nothing here uses
// them, and a device could poison another's write with a guessed one, so it is
// the shortest that the server takes.
const DuplicateWindow = 100 * time.Millisecond

// Stream is the name of the stream behind the bucket.
func (b Bucket) Stream() string { return "KV_" + b.Name }

// Subjects is the subject filter of the bucket's stream.
func (b Bucket) Subjects() string { return "$KV." + b.Name + ".>" }

// Subject is the subject of one key.
func (b Bucket) Subject(key string) string { return "$KV." + b.Name + "." + key }

// Key is the key of a subject of this bucket; ok is false for other subjects.
func (b Bucket) Key(subject string) (key string, ok bool) {
	return strings.CutPrefix(subject, "$KV."+b.Name+".")
}

// DirectGet is the subject that reads one key. Only this form, with the key in
// the subject, can be granted for some keys and not for others.
func (b Bucket) DirectGet(key string) string {
	return "$JS.API.DIRECT.GET." + b.Stream() + "." + b.Subject(key)
}

// HeaderOperation marks a deletion in a bucket, with OperationDelete (the key's
// last value is gone) or OperationPurge as its value, as the NATS key-value
// clients write it.
const (
	HeaderOperation = "KV-Operation"
	OperationDelete = "DEL"
	OperationPurge  = "PURGE"
)

// DeviceKey is the key of a device's manifest, info and heartbeat.
func DeviceKey(id DeviceID) string { return string(id) }

// DeploymentKey is the key of a score and of a state.
func DeploymentKey(id DeviceID, dep DeploymentID) string {
	return string(id) + "." + dep.Token()
}

// ParseDeviceKey reads a key of the form <device>. It fails with ErrInvalidName.
func ParseDeviceKey(key string) (DeviceID, error) { return ParseDeviceID(key) }

// ParseDeploymentKey reads a key of the form <device>.<namespace>.<name>. It
// fails with ErrInvalidName.
func ParseDeploymentKey(key string) (DeviceID, DeploymentID, error) {
	first, rest, found := strings.Cut(key, ".")
	if !found {
		return "", DeploymentID{}, fmt.Errorf("key %q: want device.namespace.name: %w", key, ErrInvalidName)
	}
	id, err := ParseDeviceID(first)
	if err != nil {
		return "", DeploymentID{}, fmt.Errorf("key %q: %w", key, err)
	}
	dep, err := ParseDeploymentToken(rest)
	if err != nil {
		return "", DeploymentID{}, fmt.Errorf("key %q: %w", key, err)
	}
	return id, dep, nil
}

// DesiredHint is the core subject on which a write of a desired-state key is
// republished. A message there is a hint and nothing more: any device can forge
// one.
func DesiredHint(key string) string { return DesiredState.Republish + "." + key }

// HeartbeatHint is the core subject on which heartbeats are republished: there an
// agent hears its own, and those of another agent with its device id. It is not
// the subject that they are sent to, since whoever can send to itself can name a
// reply subject there, and may then answer to that.
func HeartbeatHint(key string) string { return DeviceHeartbeats.Republish + "." + key }
