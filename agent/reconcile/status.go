package reconcile

import (
	"fmt"
	"strings"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Reasons of a state. The later ones come from podman: see package podman for
// which of its errors means which.
const (
	ReasonRunning            = "Running"
	ReasonCompleted          = "Completed"
	ReasonPulling            = "Pulling"
	ReasonCreating           = "Creating"
	ReasonStarting           = "Starting"
	ReasonRestarting         = "Restarting"
	ReasonHealthCheckPending = "HealthCheckPending"
	ReasonUnhealthy          = "Unhealthy"
	ReasonCrashLoop          = "CrashLoop"
	ReasonOOMKilled          = "OOMKilled"
	ReasonExited             = "Exited"
	ReasonPaused             = "Paused"
	ReasonHeld               = "Held"
	ReasonUnsupportedScore   = "UnsupportedScore"

	ReasonPodmanUnavailable = "PodmanUnavailable"
	ReasonPodmanTimeout     = "PodmanTimeout"
	ReasonPodmanError       = "PodmanError"
	ReasonImagePullFailed   = "ImagePullFailed"
	ReasonImageMissing      = "ImageMissing"
	ReasonWrongArchitecture = "WrongArchitecture"
	ReasonVolumeMissing     = "VolumeMissing"
	ReasonPortInUse         = "PortInUse"
	ReasonNameInUse         = "NameInUse"
	ReasonCommandNotFound   = "CommandNotFound"
	ReasonLimitRefused      = "LimitRefused"
	ReasonCgroupError       = "CgroupError"
	ReasonDiskFull          = "DiskFull"
	ReasonDiskSpaceLow      = "DiskSpaceLow"
	ReasonDiskReadOnly      = "DiskReadOnly"
	// ReasonStateNotSaved is any other fault of the state directory.
	ReasonStateNotSaved = "StateNotSaved"

	// Reasons of a secret: one that may pass by itself, and those for a person.
	ReasonSecretUnavailable    = "SecretUnavailable"
	ReasonSecretRefused        = "SecretRefused"
	ReasonSecretMissing        = "SecretMissing"
	ReasonSecretInvalid        = "SecretInvalid"
	ReasonSecretsNotConfigured = "SecretsNotConfigured"
)

const (
	pending   = wire.PhasePending
	succeeded = wire.PhaseSucceeded
	failed    = wire.PhaseFailed
)

// crashLoop is the number of restarts from which on it is one.
const crashLoop = 2

// status is how one service does. A zero Phase means that it is not known yet.
type status struct {
	Phase           wire.Phase
	Reason, Message string
}

func (v service) status() status {
	s, withheld := v.containerStatus(), v.want.Withheld
	if v.withheld {
		s = status{pending, ReasonHeld, v.hold.String()}
	}
	if withheld == nil || s.Phase == failed {
		return s
	}
	if withheld.Reason == ReasonSecretUnavailable {
		return status{pending, withheld.Reason, withheld.Message}
	}
	return status{failed, withheld.Reason, withheld.Message}
}

// containerStatus is the status as far as containers tell.
func (v service) containerStatus() status {
	t, m := v.target, v.memory
	if t != nil && t.State == Running {
		return v.runningStatus()
	}
	// Another version that cannot be removed is no fault of one that has ended.
	hasEnded := t != nil && t.State == Exited
	if m.failure != nil && (m.failed != Remove || !hasEnded) {
		return status{failed, m.failure.Reason, m.failure.Message}
	}
	switch {
	case t == nil && !m.pulled:
		return v.pulling()
	case t == nil:
		return status{pending, ReasonCreating, ""}
	case t.State == Paused:
		return status{failed, ReasonPaused, "the container was paused; podman unpause lets it go on"}
	case t.State == Exited:
		return v.exitedStatus()
	}
	return status{pending, ReasonStarting, ""}
}

func (v service) runningStatus() status {
	m, spec := v.memory, v.want.Spec.HealthCheck
	switch {
	case !v.settles().IsZero() && m.restarts >= crashLoop:
		return m.endedStatus(failed, ReasonCrashLoop)
	case spec != nil && m.health.failures >= retries(spec.Retries):
		return status{failed, ReasonUnhealthy, "health check failed: " + m.health.output}
	case spec != nil && !m.health.checked && v.settles().IsZero():
		return status{} // it ran before this agent did
	case spec != nil && !m.health.passed:
		return status{pending, ReasonHealthCheckPending, m.health.output}
	case !v.settles().IsZero():
		return status{pending, ReasonStarting, ""}
	}
	return status{succeeded, ReasonRunning, ""}
}

func (v service) exitedStatus() status {
	again := v.mustStart()
	switch {
	case !v.memory.examined:
		return status{} // known in a moment
	case again && v.memory.restarts < crashLoop:
		return v.memory.endedStatus(pending, ReasonRestarting)
	case again:
		return v.memory.endedStatus(failed, ReasonCrashLoop)
	case v.target.ExitCode == 0:
		return status{succeeded, ReasonCompleted, ""}
	}
	return v.memory.endedStatus(failed, ReasonExited)
}

// endedStatus says how the container ended the last time.
func (m Memory) endedStatus(phase wire.Phase, reason string) status {
	message := fmt.Sprintf("exit code %d", m.ended.code)
	if m.restarts > 0 {
		message += fmt.Sprintf(", restarted %d times", m.restarts)
	}
	if m.ended.OOMKilled {
		reason, message = ReasonOOMKilled, "out of memory, "+message
	}
	if m.ended.Tail != "" {
		message += ": " + m.ended.Tail
	}
	return status{phase, reason, message}
}

func retries(n int32) int {
	if n == 0 {
		return 3
	}
	return int(n)
}

// overall is the state of a Deployment: that of the service that does worst, the
// first of those. It is nil while one of them is not known.
func overall(w Wanted, services []service) *wire.DeviceState {
	state := &wire.DeviceState{Phase: succeeded, Reason: ReasonCompleted, Digest: w.Digest}
	worst := -1
	for _, v := range services {
		s := v.status()
		if s.Phase == "" {
			return nil
		}
		badness := map[wire.Phase]int{succeeded: 1, pending: 2, failed: 3}[s.Phase]
		if s.Reason == ReasonCompleted {
			badness = 0 // one that runs speaks for one that has ended
		}
		if badness > worst {
			worst = badness
			state.Phase, state.Reason, state.Message = s.Phase, s.Reason, s.Message
			if s.Message != "" && len(services) > 1 {
				state.Message = v.key.Service + ": " + s.Message
			}
		}
	}
	state.Message = wire.CleanText(strings.TrimSpace(state.Message), wire.MaxMessage)
	state.Containers = running(services)
	return state
}

// running names what runs for each service, be it of another version.
func running(services []service) []wire.ContainerRef {
	var refs []wire.ContainerRef
	for _, v := range services {
		all := v.others
		if v.target != nil {
			all = append([]Container{*v.target}, v.others...)
		}
		for _, c := range all {
			if c.live() {
				refs = append(refs, wire.ContainerRef{Service: v.key.Service, ID: c.ID})
				break
			}
		}
	}
	return refs
}
