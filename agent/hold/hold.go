// Package hold is "not now": how long nothing is changed on this device because
// somebody asked for that. It decides from what was asked and from the clock alone,
// and never says what counts as a change: agent/reconcile does.
package hold

import (
	"fmt"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Longest is how long a hold may be: a device that is forgotten in one follows again.
const Longest = 30 * 24 * time.Hour

// Hold is the wish that nothing is changed for a while.
type Hold struct {
	// Set is when it was asked for, and Until when it ends, both by this device's clock.
	Set   time.Time `json:"set"`
	Until time.Time `json:"until"`
	// By is who asked.
	By wire.Holder `json:"by"`
}

// String is what a person is told.
func (h Hold) String() string {
	return fmt.Sprintf("held until %s by the %s", h.Until.UTC().Format(time.RFC3339), h.By)
}

// Plain is the hold with its times such that equal holds are equal in Go.
func (h Hold) Plain() Hold {
	h.Set, h.Until = h.Set.UTC().Round(0), h.Until.UTC().Round(0)
	return h
}

// New is a hold from now on. It fails with what to write instead.
func New(now time.Time, length time.Duration, by wire.Holder) (Hold, error) {
	if length <= 0 || length > Longest {
		return Hold{}, fmt.Errorf("a hold of %s: want more than 0s and at most %s", length, Longest)
	}
	now = now.UTC().Truncate(time.Second)
	return Hold{Set: now, Until: now.Add(length), By: by}, nil
}

// Watch tells of holds how long they still count, on a device whose clock may be wrong
// when it boots: a hold counts while the clock says so, and never for longer than it
// was made for after it was first seen. So a clock that stands in the past cannot hold
// a device for years, and one that stands in the future ends a hold early.
type Watch struct {
	// seen is when each was first seen, by the clock that no correction moves.
	seen map[Hold]time.Time
}

// Left is how long the hold still counts; 0 when it is over.
func (w *Watch) Left(h Hold, now time.Time) time.Duration {
	if w.seen == nil {
		w.seen = map[Hold]time.Time{}
	}
	first, known := w.seen[h]
	if !known {
		first = now
		w.seen[h] = now
	}
	length := min(h.Until.Sub(h.Set), Longest)
	return max(0, min(h.Until.Sub(now), length-now.Sub(first)))
}

// Forget drops all but these, which are seen anew when they come back.
func (w *Watch) Forget(but ...Hold) {
	kept := map[Hold]time.Time{}
	for _, h := range but {
		if first, known := w.seen[h]; known {
			kept[h] = first
		}
	}
	w.seen = kept
}
