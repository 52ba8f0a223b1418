package bus

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/agent/backoff"
	"github.com/nationtech/harmony-fleet/agent/twin"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// remind is how often the log says again that another agent has this device id.
const remind = time.Hour

// twins is what is known and was said of other agents with this device id.
type twins struct {
	watch   *twin.Watch
	verdict twin.Verdict  // the last one
	role    wire.TwinRole // that the last heartbeat said
	said    time.Time     // that there are others
}

// beat sends heartbeats, the first at once, and listens for those of another agent
// with this device id. They are not acknowledged: the next one repairs the loss of
// one.
func (s *session) beat(ctx context.Context) {
	var rewrite *time.Timer
	defer func() { stop(rewrite) }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var due time.Time
	for {
		now := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case msg := <-s.heartbeats:
			now = s.overhear(msg)
		}
		last, next := s.judge(s.Now())
		if next.Rewrite && last.Reports {
			// What the other one had under way shall arrive before.
			stop(rewrite)
			rewrite = time.AfterFunc(s.timing.reassert, func() { s.outbox.reassert(math.MaxInt) })
		}
		if role := s.twins.watch.Role(); now || role != "" && role != s.twins.role || !time.Now().Before(due) {
			s.sendHeartbeat()
			due = time.Now().Add(backoff.Jittered(s.timing.heartbeat))
		}
		timer.Reset(min(time.Until(due), next.Wait))
	}
}

// judge decides whether this agent reports or another one with its device id, and
// tells what is news of that.
func (s *session) judge(now time.Time) (last, next twin.Verdict) {
	last, next = s.twins.verdict, s.twins.watch.Look(now)
	s.twins.verdict = next
	if next.Rewrite && !last.Reports {
		s.outbox.reassert(math.MaxInt)
	}
	s.outbox.hold(!next.Reports)
	s.tell(last, next, now)
	return last, next
}

func stop(timer *time.Timer) {
	if timer != nil {
		timer.Stop()
	}
}

func (s *session) sendHeartbeat() {
	s.twins.role = s.twins.watch.Role()
	beat := wire.Heartbeat{Session: s.Session, Generation: s.Workloads.Desired().Generation, Twin: s.twins.role}
	payload, err := beat.Encode()
	if err == nil {
		err = s.nc.Publish(wire.DeviceHeartbeats.Subject(wire.DeviceKey(s.Device)), payload)
	}
	if err != nil {
		s.Log.V(1).Info("heartbeat not sent", "problem", err.Error())
	}
}

// overhear takes in a heartbeat with this device id, most often the agent's own, and
// tells whether to answer it.
func (s *session) overhear(msg *nats.Msg) bool {
	beat, err := wire.DecodeHeartbeat(msg.Data)
	if err != nil {
		s.Log.V(1).Info("heartbeat with this device id not understood", "problem", err.Error())
		return false
	}
	return s.twins.watch.Hear(beat, s.Now())
}

// tell says what is news about other agents with this device id, and now and then
// what is none.
func (s *session) tell(last, next twin.Verdict, now time.Time) {
	news := next.StandsBy != last.StandsBy || !slices.Equal(next.Others, last.Others)
	if len(next.Others) == 0 {
		if news {
			s.Twin(nil)
			s.Log.Info("no other agent has this device id any more, reporting on the device")
		}
		return
	}
	problem := conflict(s.Device, next)
	if news {
		s.Twin(problem)
	}
	if news || now.Sub(s.twins.said) >= remind {
		s.twins.said = now
		s.Log.Error(problem, "two agents have one device id", "device", s.Device, "session", s.Session, "others", next.Others, "standsBy", next.StandsBy)
	}
}

// conflict says that another agent has this device id, and what to do about it.
func conflict(id wire.DeviceID, v twin.Verdict) error {
	part := "this one reports on the device"
	if v.StandsBy {
		part = "that one reports on the device and this one stands by"
	}
	return fmt.Errorf("another agent with device id %q is live (session %s), %s; give one of them an id of its own: kubectl fleet enroll",
		id, strings.Join(v.Others, ", "), part)
}
