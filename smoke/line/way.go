package line

import "time"

// queue is how many bytes wait for a narrow line at most. What comes then is dropped, as
// by a router that has no more room.
const queue = 20_000

// way is what becomes of the packets of one direction, which never overtake each other.
// Who has it tells it what time it is.
type way struct {
	fault  Fault
	chance func() float64 // from 0 to below 1, another each time
	busy   time.Time      // until then the line takes what it was given
	last   time.Time      // when the last packet arrives
}

// take says when a packet of so many bytes arrives, or that it never does.
func (w *way) take(size int, now time.Time) (arrives time.Time, taken bool) {
	begins := later(now, w.busy)
	if w.fault.MTU > 0 && size > w.fault.MTU || w.fault.Rate > 0 && begins.Sub(now)+w.lasts(size) > w.lasts(queue) {
		return time.Time{}, false
	}
	w.busy = begins.Add(w.lasts(size))
	if w.chance() < w.fault.Loss {
		return time.Time{}, false // on the line: others have waited for it
	}
	w.last = later(w.last, w.busy.Add(w.fault.Delay))
	return w.last, true
}

// lasts is how long the line takes for so many bytes.
func (w *way) lasts(size int) time.Duration {
	if w.fault.Rate == 0 {
		return 0
	}
	return time.Duration(size) * 8 * time.Second / time.Duration(w.fault.Rate)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
