package fleet

import (
	"container/heap"
	"math"
	"strconv"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Two agents with one device id are told by sessions that alternate: A, B and A
// again within conflictWindow. A restart is A and B only. An agent that stands by
// for another says so itself, and tells also of three that take turns. The conflict
// is over when nothing was seen of it for conflictHold.
const (
	conflictWindow = int64(10 * wire.HeartbeatInterval)
	conflictHold   = int64(10 * time.Minute)
)

// noTimer is presence.timer of a device that waits for nothing; adopted is
// presence.conflictAt of a conflict that only the resource tells of.
const (
	noTimer = -1
	adopted = -1
)

// presence is what is known of a device's signs of life. Times are Unix
// nanoseconds, 0 for never.
type presence struct {
	lastSeen int64
	// spared is until when nothing could be heard of it while it was reachable.
	spared int64
	// session of the last heartbeat; former is the one before it, last seen at
	// formerSeen.
	session, former uint32
	formerSeen      int64
	conflictAt      int64 // of the last sign of another agent

	conflict bool
	checking bool  // in Fleet.checks
	due      int64 // when reachable or conflict may end by itself
	timer    int   // place in Fleet.timers

	shown            deviceConditions // as the resource has them
	queued, patching bool             // in Fleet.movedDevices; in flight
}

// ObserveHeartbeat tells of a sign of life, at the broker's time.
func (f *Fleet) ObserveHeartbeat(id wire.DeviceID, h wire.Heartbeat, at time.Time) {
	d := f.device(id)
	now := at.UnixNano()
	// A session is 8 hex digits as wire.DecodeHeartbeat leaves it; 0 for others.
	parsed, _ := strconv.ParseUint(h.Session, 16, 32)
	session := uint32(parsed)
	if d.lastSeen != 0 && session != d.session {
		if d.formerSeen != 0 && session == d.former && now-d.formerSeen <= conflictWindow {
			d.conflictAt = now
			f.check(d)
		}
		d.former, d.formerSeen = d.session, d.lastSeen
	}
	if h.Twin == wire.TwinStandsBy {
		d.conflictAt = now
		f.check(d)
	}
	d.session, d.lastSeen = session, now
	if !d.reachable {
		f.check(d)
	}
	d.agent = h.Generation
	if d.agent > d.generation {
		f.replan(d)
	}
}

// Hearing tells whether signs of life can reach the operator, from now on. While
// they cannot, silence says nothing of a device: whoever is reachable stays so.
// When they can again, each of those has the whole timeout to be heard.
func (f *Fleet) Hearing(can bool, now time.Time) {
	f.advance(now)
	f.deaf = !can
	if !can {
		return
	}
	f.hearingSince = now.UnixNano()
	for _, d := range f.devices {
		if d.reachable {
			d.spared = f.hearingSince
		}
	}
}

// Silent reports whether a device without a resource could have been heard for the
// whole timeout and was not.
func (f *Fleet) Silent(id wire.DeviceID, now time.Time) bool {
	heard := f.hearingSince
	if d := f.byID[id]; d != nil {
		if d.known {
			return false
		}
		heard = max(heard, d.lastSeen)
	}
	return !f.deaf && now.UnixNano()-heard > int64(f.options.HeartbeatTimeout)
}

// check has a device judged as soon as the time is known.
func (f *Fleet) check(d *device) {
	if d.known && !d.checking {
		d.checking = true
		f.checks = append(f.checks, d)
	}
}

// advance carries out what time has brought about. A heartbeat does not touch
// the timers: a device whose time is up is looked at, and waits again when it
// was heard of since.
func (f *Fleet) advance(now time.Time) {
	f.clock = now
	for _, d := range f.checks {
		d.checking = false
		f.judge(d, now.UnixNano())
	}
	f.checks = f.checks[:0]
	for !f.deaf && len(f.timers) > 0 && f.timers[0].due <= now.UnixNano() {
		f.judge(f.timers[0], now.UnixNano())
	}
}

// judge decides whether a device is reachable and whether it is in conflict, and
// when to look again.
func (f *Fleet) judge(d *device, now int64) {
	if !d.known {
		return
	}
	if d.conflictAt == adopted {
		d.conflictAt = now
	}
	timeout := int64(f.options.HeartbeatTimeout)
	heard := max(d.lastSeen, d.spared)
	f.setReachable(d, heard != 0 && now-heard <= timeout || f.deaf && d.reachable)
	d.conflict = d.conflictAt != 0 && now-d.conflictAt < conflictHold

	d.due = math.MaxInt64
	if d.reachable {
		d.due = heard + timeout + 1
	}
	if d.conflict {
		d.due = min(d.due, d.conflictAt+conflictHold)
	}
	f.schedule(d)
	f.touchDevice(d)
}

func (f *Fleet) setReachable(d *device, reachable bool) {
	if d.reachable == reachable {
		return
	}
	d.reachable = reachable
	if reachable {
		f.reachable++
	} else {
		f.reachable--
	}
	for i := range d.records {
		f.settle(d, &d.records[i])
	}
}

// depart ends the presence of a device whose resource is gone.
func (f *Fleet) depart(d *device) {
	f.setReachable(d, false)
	d.due = math.MaxInt64
	f.schedule(d)
	d.shown, d.conflict, d.patching, d.spared = deviceConditions{}, false, false, 0
}

// schedule brings a device's timer in line with its due.
func (f *Fleet) schedule(d *device) {
	switch waiting := d.timer != noTimer; {
	case d.due == math.MaxInt64 && waiting:
		heap.Remove(&f.timers, d.timer)
	case d.due == math.MaxInt64:
	case waiting:
		heap.Fix(&f.timers, d.timer)
	default:
		heap.Push(&f.timers, d)
	}
}

// timers is a heap of devices by due, for container/heap.
type timers []*device

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].due < t[j].due }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].timer, t[j].timer = i, j
}

// Push and Pop are for container/heap alone.
func (t *timers) Push(d any) {
	d.(*device).timer = len(*t)
	*t = append(*t, d.(*device))
}

// Pop is for container/heap alone.
func (t *timers) Pop() any {
	last := (*t)[len(*t)-1]
	last.timer = noTimer
	*t = (*t)[:len(*t)-1]
	return last
}
