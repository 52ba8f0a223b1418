// Package backoff is how long the agent's parts wait before they try again, and the
// waiting. Which bounds suit a part is the part's own affair.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// maxDoublings keeps a wait from overflowing; any bound is reached before.
const maxDoublings = 16

// Doubled is first, doubled so many times, and at most most.
func Doubled(times int, first, most time.Duration) time.Duration {
	return min(first<<min(max(times, 0), maxDoublings), most)
}

// FullJitter is anything from 0 to Doubled, so that many devices that failed at once
// do not come back in step.
func FullJitter(times int, first, most time.Duration) time.Duration {
	return rand.N(Doubled(times, first, most) + 1)
}

// Jittered is d plus or minus a tenth.
func Jittered(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// Sleep waits for d; it is false when ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
