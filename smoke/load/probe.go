package load

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// maxAge is how long a probe waits for a status. One that comes later counts as
// this old; one that never comes is found by the recount.
const maxAge = 2 * time.Minute

// probe turns one pair from succeeded to failed and back, at random times, and
// measures each time how long after the acknowledgement of the state the status
// with it arrives at a watch. Its Deployment has no other writes, so that the
// status tells which write it reports.
func (r *run) probe(ctx context.Context, n int) (ages []time.Duration, err error) {
	j := r.plan.pairs[n].deployment
	random := rand.New(rand.NewPCG(r.Seed, uint64(n)+1))
	phases := []wire.Phase{wire.PhaseSucceeded, wire.PhaseFailed}
	for turn := 0; ; turn++ {
		if pause(ctx, time.Duration(random.Int64N(int64(2*time.Second)))) != nil {
			return ages, nil //nolint:nilerr // the end of the time to measure is no failure
		}
		phase := phases[turn%2]
		seen := r.watcher.expect(r.plan.deployments[j].id.Name, func(a v1alpha1.Aggregate) bool {
			return (phase == wire.PhaseFailed) == (a.Failed == 1) && (phase == wire.PhaseSucceeded) == (a.Succeeded == 1)
		})
		ack, err := r.sim.writeState(n, truth{phase: phase, current: true})
		if err != nil {
			return ages, err
		}
		var acked time.Time
		select {
		case <-ack.Ok():
			acked = time.Now()
		case err := <-ack.Err():
			return ages, err
		}
		select {
		case at := <-seen:
			ages = append(ages, max(0, at.Sub(acked)))
		case <-time.After(maxAge):
			ages = append(ages, maxAge)
		}
	}
}
