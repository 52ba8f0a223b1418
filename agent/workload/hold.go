package workload

import (
	"time"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/store"
)

// look finds out whether the device is held, and for how long from now on; 0 when it
// is not. Of two holds the one that ends last counts. One that is over is forgotten, so
// that a clock that is set back later does not bring it back.
func (l *loop) look() (left time.Duration) {
	var next *hold.Hold
	local, wanted := l.asked(), l.Desired().Hold
	for h, forget := range map[hold.Hold]func(hold.Hold) error{local: l.options.Store.RemoveHold, wanted: l.release} {
		if h == (hold.Hold{}) {
			continue
		}
		switch lasts := l.holds.Left(h, l.options.Clock()); {
		case lasts > left:
			left, next = lasts, &h
		case lasts == 0:
			if err := forget(h); err != nil {
				l.options.Log.Error(err, "hold not forgotten")
			}
		}
	}
	l.holds.Forget(local, wanted)
	l.mu.Lock()
	last := l.hold
	l.hold = next
	l.mu.Unlock()
	switch {
	case next != nil && (last == nil || *next != *last):
		l.options.Log.Info("nothing is changed from now on", "until", next.Until, "by", next.By)
	case next == nil && last != nil:
		l.options.Log.Info("the hold is over")
	default:
		return left
	}
	l.options.Held(next)
	return left
}

// asked is what somebody on the device asked for. What cannot be read holds nothing: a
// person who asks for a hold looks whether it is there.
func (l *loop) asked() hold.Hold {
	h, err := l.options.Store.LoadHold()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != l.unread {
		l.options.Log.Error(err, "hold not read")
	}
	l.unread = text
	return h
}

// release forgets the cluster's hold when it is still that one.
func (m *Manager) release(h hold.Hold) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.desired.Hold != h {
		return nil
	}
	next := store.Desired{Generation: m.desired.Generation, Deployments: m.desired.Deployments, Trust: m.desired.Trust}
	if err := m.options.Store.SaveDesired(next); err != nil {
		return err
	}
	m.desired = next
	return nil
}
