package reconcile

import (
	"fmt"
	"hash/fnv"
	"time"

	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Pulls says how the device behaves towards its registry and its disk.
type Pulls struct {
	// Device, which has its own place in Window.
	Device wire.DeviceID
	// Window over which the devices of a fleet spread what they have to fetch for one
	// change; 0 for none.
	Window time.Duration
	// MinFree is how many bytes must be free before something is fetched; 0 switches
	// that off. See Room.
	MinFree int64
}

// delay is this device's place in the window for a version of a service: the same
// whenever it is asked for, and as if drawn by lot.
func (p Pulls) delay(digest score.Digest) time.Duration {
	if p.Window <= 0 {
		return 0
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(string(p.Device) + "/" + string(digest))) // never fails
	return time.Duration(hash.Sum64() % uint64(p.Window))
}

// pull makes sure that the image is here. Where pulls are spread the first such step
// only looks: what is here already need not wait.
func (v service) pull() *Step {
	s := v.step(Pull, Container{})
	s.MinFree = v.pulls.MinFree
	if v.memory.turn.IsZero() {
		s.Delay = v.pulls.delay(v.digest())
	}
	return s
}

// pulling is the status of a service whose image is not here.
func (v service) pulling() status {
	message := v.want.Spec.Image
	if v.now.Before(v.memory.turn) {
		message += ", from " + v.memory.turn.UTC().Format(time.RFC3339) + " on: pull_jitter spreads the fleet's pulls"
	}
	return status{pending, ReasonPulling, message}
}

// smallShare of a small file system is enough to stay free, whatever is configured.
const smallShare = 10

// Room is the space of the file system that holds podman's images, in bytes.
type Room struct {
	Path        string
	Free, Total int64
}

// Low is why nothing may be fetched while so many bytes shall be free, or a tenth of a
// file system of which that is more; nil when there is room.
func (r Room) Low(minFree int64) *Failure {
	minFree = min(minFree, r.Total/smallShare)
	if r.Free >= minFree {
		return nil
	}
	return &Failure{Reason: ReasonDiskSpaceLow, Message: fmt.Sprintf(
		"nothing is pulled while %s has %s free of %s: at least %s shall be ([podman] min_free_space)",
		r.Path, mebibytes(r.Free), mebibytes(r.Total), mebibytes(minFree))}
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
