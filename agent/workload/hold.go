package workload

import (
	"time"

	"github.com/nationtech/harmony-fleet/agent/hold"
)

// look finds out whether the device is held, and for how long from now on; 0 when it
// is not. A hold that is over is forgotten, so that a clock that is set back later does
// not bring it back.
func (l *loop) look() (left time.Duration) {
	asked, err := l.options.Store.LoadHold()
	if err != nil {
		// What cannot be read holds nothing: a person who asks for a hold looks
		// whether it is there.
		if err.Error() != l.unread {
			l.options.Log.Error(err, "hold not read")
		}
		l.unread = err.Error()
		asked = hold.Hold{}
	} else {
		l.unread = ""
	}
	var next *hold.Hold
	if asked != (hold.Hold{}) {
		if left = l.holds.Left(asked, l.options.Clock()); left > 0 {
			next = &asked
		} else if err := l.options.Store.RemoveHold(asked); err != nil {
			l.options.Log.Error(err, "hold not forgotten")
		}
	}
	l.holds.Forget(asked)
	l.mu.Lock()
	last := l.hold
	l.hold = next
	l.mu.Unlock()
	switch {
	case next != nil && (last == nil || *next != *last):
		l.options.Log.Info("nothing is changed from now on", "until", next.Until, "by", next.By)
	case next == nil && last != nil:
		l.options.Log.Info("the hold is over")
	}
	return left
}
