// Package reconcile decides what to do next with the containers of one
// Deployment on this device, and what to say of it: a pure function of what is
// wanted, what is there and what was tried before.
//
// Each plan holds at most one step per service, and the next plan is made from
// what is found after it. So there is no sequence to resume: after a power cut
// between any two steps the plan made from what is found leads to the same end.
//
// The package never does anything itself: no I/O, no clock, no goroutine.
package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Key names one service of one Deployment.
type Key struct {
	Deployment wire.DeploymentID
	Service    string
}

// ContainerName is the name of the container that runs the service with that
// digest. Names are unique in one podman, which two agents may share, so the
// device is part of the last eight digits.
func ContainerName(device wire.DeviceID, key Key, digest score.Digest) string {
	sum := sha256.Sum256([]byte(string(device) + "/" + string(digest)))
	return key.Deployment.Token() + "." + key.Service + "-" + hex.EncodeToString(sum[:4])
}

// ContainerState is the part of podman's container states that matters here.
type ContainerState string

const (
	// Created: made, and never started.
	Created ContainerState = "Created"
	Running ContainerState = "Running"
	// Paused: frozen by somebody else; no step does that.
	Paused ContainerState = "Paused"
	// Stopping: a stop has begun, and nobody may be waiting for it any more.
	Stopping ContainerState = "Stopping"
	// Releasing: ended, and podman has not yet released what it had, its published
	// ports among it.
	Releasing ContainerState = "Releasing"
	Exited    ContainerState = "Exited"
	// Broken: a removal that did not finish, or a state that podman itself does
	// not know.
	Broken ContainerState = "Broken"
)

// Container is one of this device's containers as podman lists it.
type Container struct {
	ID string
	Key
	// Digest of the service that it was made from, as its label says: containers
	// are compared by it and never by reading their settings back.
	Digest score.Digest
	State  ContainerState
	// Created, and the last Started and Exited, in whole seconds. What never happened
	// was long before all else.
	Created, Started, Exited time.Time
	ExitCode                 int
	// Image is podman's id of the image that it was made of.
	Image string
	// Secrets are the names of those of podman's secrets that it was made with.
	Secrets []string
	// Exposed says that some of them are in its environment. A container that an older
	// agent made does not tell.
	Exposed bool
}

// ReleaseTime is how long podman may take to release what an ended container had.
// One that takes longer was cut off, and holds nothing up any more.
const ReleaseTime = 10 * time.Second

// resolved has a Releasing container count as Stopping while podman may still be
// at it, since what is started meanwhile on the same port loses that when podman
// releases it, and as Exited afterwards. What podman 4.3 calls created after a power
// cut, though it was started before, counts as Exited too.
func (c Container) resolved(now time.Time) Container {
	switch {
	case c.State == Releasing:
		c.State = Exited
		if ended := now.Sub(c.Exited); 0 <= ended && ended < ReleaseTime {
			c.State = Stopping
		}
	case c.State == Created && c.Exited.Before(c.Started):
		c.State = Exited
	}
	return c
}

// cutOff reports whether nobody saw the end of c, as when the power was cut.
func (c Container) cutOff() bool { return c.State == Exited && c.Exited.Before(c.Started) }

func (c Container) live() bool { return c.State == Running || c.State == Stopping }

// Wanted is what one Deployment asks for.
type Wanted struct {
	// Digest of the whole score.
	Digest   score.Digest
	Services []Service
	// Err is why the score cannot be read; nothing is touched then.
	Err error
}

// Service is a service with its own digest.
type Service struct {
	Spec score.Service
	// Digest of Spec and of the versions of the secrets that it names; "" while
	// these are not known.
	Digest score.Digest
	// Versions of the secrets that Spec names, by their names.
	Versions map[string]SecretVersion
	// Withheld is why no container may be made now, for want of a secret; nil when
	// nothing is missing. What is there already goes on.
	Withheld *Failure
}

// Want decodes the canonical bytes of a score.
func Want(digest score.Digest, canonical []byte) Wanted {
	decoded, err := score.Decode(canonical)
	if err != nil {
		return Wanted{Digest: digest, Err: err}
	}
	w := Wanted{Digest: digest}
	for _, spec := range decoded.PodmanV0.Services {
		w.Services = append(w.Services, Service{Spec: spec, Digest: spec.Digest()})
	}
	return w
}

// Action is what a step does.
type Action string

const (
	// Pull makes sure that the image is here and fits this device.
	Pull Action = "Pull"
	// Create makes the container, and named volumes that are missing. It binds no
	// port, so that the old container goes on meanwhile.
	Create Action = "Create"
	// Start starts a container, for the first time or again.
	Start Action = "Start"
	// Stop sends SIGTERM and, after the container's own grace period, SIGKILL.
	Stop Action = "Stop"
	// Remove deletes a container that does not run.
	Remove Action = "Remove"
	// Check runs the health check once.
	Check Action = "Check"
	// Examine asks why a container ended.
	Examine Action = "Examine"
	// Conceal strikes the values of secrets out of what podman shows of a
	// container's environment.
	Conceal Action = "Conceal"
)

// Step is one thing to do for one service.
type Step struct {
	Key
	Action Action
	// Container to act on; zero for Pull and Create.
	Container Container
	// Service that is wanted; zero when none is.
	Service Service
	// MinFree of a Pull is how many bytes must be free before it fetches; see Pulls.
	MinFree int64
	// Delay of a Pull is how long it has to wait for its turn, unless the image is
	// here; such a Pull fetches nothing. 0 means that it is its turn.
	Delay time.Duration
}

// Outcome is what a step brought.
type Outcome struct {
	// Err is why it failed; nil when it did not.
	Err *Failure
	// Absent says of a Pull with a Delay that the image is not here.
	Absent bool
	// Fetched is podman's id of the image that a Pull fetched; "" when it was here
	// already, or did not come.
	Fetched string
	// Exit is what Examine found.
	Exit Exit
	// Health is what Check found.
	Health Health
	// Jitter, 0 to 1, spreads the next try after a failure, so that a fleet does
	// not come back to its registry at once.
	Jitter float64
}

// Exit tells how a container ended.
type Exit struct {
	OOMKilled bool
	// Tail is the end of its log.
	Tail string
}

// Health is the result of one health check.
type Health struct {
	OK bool
	// Output of the command.
	Output string
	// TimedOut says that the command took longer than it may. Not every podman
	// ends it then.
	TimedOut bool
}

// Failure is a failed step, told to people.
type Failure struct {
	// Reason is one of the Reason constants.
	Reason string
	// Message is the cause in podman's own words.
	Message string
}

// Error is the message.
func (f *Failure) Error() string { return f.Message }
