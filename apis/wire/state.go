package wire

import (
	"github.com/nationtech/harmony-fleet/apis/score"
)

// Phase is what a device says of one Deployment; each is counted in the field of
// the same name of the Deployment's aggregate.
type Phase string

const (
	// PhasePending: the device is on its way there.
	PhasePending Phase = "Pending"
	// PhaseSucceeded: every service runs and is healthy, or ended as it should.
	PhaseSucceeded Phase = "Succeeded"
	// PhaseFailed: at least one service does not run as it should; Reason and
	// Message say why. The agent goes on trying.
	PhaseFailed Phase = "Failed"
)

// Bounds of a DeviceState, in bytes and entries.
const (
	MaxReason     = 64
	MaxMessage    = 1024
	maxContainers = 16
)

// DeviceState is how one Deployment does on one device.
type DeviceState struct {
	// Phase, Reason (a CamelCase word) and Message (the cause, in the words of
	// the part that failed).
	Phase   Phase  `json:"phase"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
	// Digest of the score that the state speaks of. A state with another digest
	// than the wanted one counts as pending.
	Digest score.Digest `json:"digest"`
	// Containers that run for the Deployment, in the order of its services.
	Containers []ContainerRef `json:"containers,omitempty"`
}

// ContainerRef names the container of one service.
type ContainerRef struct {
	Service string `json:"service"`
	ID      string `json:"id"`
}

// Encode is the canonical encoding.
func (s DeviceState) Encode() ([]byte, error) { return encode("device state", s) }

// DecodeDeviceState reads a DeviceState and makes its texts fit to be shown. It
// fails with ErrMalformed.
func DecodeDeviceState(data []byte) (DeviceState, error) {
	limit := int(DeviceStates.MaxMessageSize)
	s, canonical := readCanonicalState(data[:min(len(data), limit)])
	if !canonical || len(data) > limit {
		s = DeviceState{}
		if err := decode("device state", data, limit, &s); err != nil {
			return DeviceState{}, err
		}
	}
	switch s.Phase {
	case PhasePending, PhaseSucceeded, PhaseFailed:
	default:
		return DeviceState{}, malformed("device state", "phase must be Pending, Succeeded or Failed")
	}
	if !s.Digest.Valid() {
		return DeviceState{}, malformed("device state", "digest is not sha256:<64 hex digits>")
	}
	if len(s.Containers) > maxContainers {
		return DeviceState{}, malformed("device state", "too many containers")
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		c.Service, c.ID = CleanText(c.Service, 63), CleanText(c.ID, 64)
	}
	s.Reason, s.Message = CleanText(s.Reason, MaxReason), CleanText(s.Message, MaxMessage)
	return s, nil
}
