// Package twin decides what an agent does about others with its device id, such
// as those of cloned SD cards: one of them reports on the device and the rest
// stand by. Each decides for itself from the heartbeats of all, and comes to the
// same result, whenever it hears them.
//
// It has no I/O, no clock and no goroutine, and trusts no device's clock: times
// are those of the caller's.
package twin

import (
	"cmp"
	"slices"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// Silence is how long another must not have been heard to be gone.
	Silence = wire.HeartbeatTimeout
	// Settle is how long an agent that begins should listen before it reports: who
	// is there already answers in that time.
	Settle = 3 * time.Second
	// apart are two heartbeats that no agent which has died since left behind: those
	// may arrive late, and together.
	apart = wire.HeartbeatInterval / 2
	// most bounds the others that are listened to.
	most = 16
	// idle is Verdict.Wait when nothing changes by itself.
	idle = time.Hour
)

// Watch is what an agent knows of others with its device id.
type Watch struct {
	session string
	settle  time.Duration
	role    wire.TwinRole // never ""
	// since is from when on one that is TwinNew has to settle, and looked the last
	// time at which others could be heard.
	since, looked time.Time
	others        map[string]*other
	// stale says that another may have written since this agent did.
	stale bool
}

// other is another agent, of one session.
type other struct {
	role        wire.TwinRole
	heard       int
	first, last time.Time
}

// Verdict is what to do now.
type Verdict struct {
	// Reports says whether this agent reports on the device. Without others it
	// does, once it has settled.
	Reports bool
	// StandsBy says that it does not because another does.
	StandsBy bool
	// Rewrite is true once when another may have written what this agent has to
	// report: all of it is to be written again.
	Rewrite bool
	// Others are the sessions of the others that are live, sorted. One that was
	// heard once and never again is not among them.
	Others []string
	// Wait is after which time there may be another verdict though nothing is heard.
	Wait time.Duration
}

// New is the watch of an agent with this session, which listens for so long before
// it reports.
func New(session string, settle time.Duration) *Watch {
	return &Watch{session: session, settle: settle, role: wire.TwinNew, others: map[string]*other{}}
}

// Listen tells that heartbeats of others can be heard from now on. Until then they
// could not, which is not their silence. Who was away for long begins anew: another
// may have taken over.
func (w *Watch) Listen(now time.Time) {
	for _, o := range w.others {
		o.last = now
	}
	if away := now.Sub(w.looked); w.role != wire.TwinStandsBy && (w.looked.IsZero() || away > Silence/2) {
		w.role, w.since = wire.TwinNew, now
	}
	w.looked = now
}

// Hear takes in a heartbeat, and tells whether to answer it by one at once: an agent
// that begins shall learn of the others before it reports.
func (w *Watch) Hear(h wire.Heartbeat, now time.Time) (answer bool) {
	if h.Session == w.session {
		return false
	}
	o := w.others[h.Session]
	if o == nil {
		if len(w.others) == most {
			return false
		}
		o = &other{role: h.Twin, first: now}
		w.others[h.Session] = o
		w.since = now // it has the time to be heard again
	}
	w.stale = w.stale || o.writes() && h.Twin == wire.TwinStandsBy
	answer = !o.live() || h.Twin == wire.TwinNew
	o.role, o.last = h.Twin, now
	o.heard++
	return answer
}

// Role is what the agent's own heartbeats say of it.
func (w *Watch) Role() wire.TwinRole {
	if w.role == wire.TwinReports && len(w.others) == 0 {
		return ""
	}
	return w.role
}

// Look decides as of now.
func (w *Watch) Look(now time.Time) Verdict {
	w.looked = now
	v := Verdict{Wait: idle}
	for session, o := range w.others {
		switch left := o.last.Add(Silence).Sub(now); {
		case left <= 0:
			w.stale = w.stale || o.writes()
			delete(w.others, session)
		case o.live():
			v.Others = append(v.Others, session)
			fallthrough
		default:
			v.Wait = min(v.Wait, left)
		}
	}
	slices.Sort(v.Others)
	w.decide(now)
	if w.role == wire.TwinNew {
		v.Wait = min(v.Wait, w.since.Add(w.settle).Sub(now))
	}
	v.Reports, v.StandsBy = w.role == wire.TwinReports, w.role == wire.TwinStandsBy
	if v.Reports {
		v.Rewrite, w.stale = w.stale, false
	}
	return v
}

// decide brings the role in line with those of the others.
func (w *Watch) decide(now time.Time) {
	self := other{role: w.role}
	standsBy := false
	for session, o := range w.others {
		if o.live() {
			standsBy = standsBy || before(session, *o, w.session, self)
		}
	}
	switch {
	case standsBy:
		w.role = wire.TwinStandsBy
	case w.role == wire.TwinStandsBy, w.role == wire.TwinNew && now.Sub(w.since) >= w.settle:
		w.role = wire.TwinReports
	}
}

// live says whether this is an agent and not what is left of one: it has answered,
// or its heartbeats go on.
func (o *other) live() bool {
	return o.heard > 1 && (o.role != "" || o.last.Sub(o.first) >= apart)
}

// writes says whether this agent may have written what it reports.
func (o *other) writes() bool { return rank(o.role) <= rank(wire.TwinReports) }

// before tells whether the first of two goes before the second in reporting.
func before(session string, one other, than string, two other) bool {
	return cmp.Or(cmp.Compare(rank(one.role), rank(two.role)), cmp.Compare(session, than)) < 0
}

// rank has those who report first in front of those who begin, and these of those
// who stand by. An agent that says nothing, though it has heard others as long as
// they have heard it, is too old to make way.
func rank(role wire.TwinRole) int {
	switch role {
	case "":
		return 0
	case wire.TwinNew:
		return 2
	case wire.TwinStandsBy:
		return 3
	}
	return 1
}
