package reconcile

import (
	"slices"
	"time"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/apis/score"
)

// service is one service of a Deployment with all that is there of it.
type service struct {
	key    Key
	want   *Service // nil when it shall not be here
	target *Container
	others []Container // made from another version of the service
	memory Memory
	now    time.Time
	pulls  Pulls
	// hold is why nothing may be changed now, and withheld says that something is
	// wanted which is not there because of it.
	hold     *hold.Hold
	withheld bool
}

func newService(key Key, want *Service, s Situation) service {
	v := service{key: key, want: want, now: s.Now, pulls: s.Pulls}
	for _, c := range s.Containers {
		c = c.resolved(s.Now)
		switch {
		case c.Service != key.Service:
		case want == nil || want.Digest == "" || c.Digest != want.Digest:
			v.others = append(v.others, c)
		case v.target == nil:
			v.target = &c
		case c.precedes(*v.target):
			v.others = append(v.others, *v.target)
			v.target = &c
		default:
			v.others = append(v.others, c)
		}
	}
	if s.Hold != nil {
		v = v.held(s.Hold)
	}
	v.memory = s.Memory[key.Service].about(v.digest())
	v.memory = v.memory.observe(v.stage(), s.Now)
	return v
}

// stage is the container that is watched: the wanted one, and before it is there the one
// that was started again in its place; nil for none.
func (v service) stage() (last *Container) {
	if v.target != nil || !v.memory.revived {
		return v.target
	}
	for i, c := range v.others {
		if c.State != Created && (last == nil || c.Started.After(last.Started)) {
			last = &v.others[i]
		}
	}
	return last
}

// precedes reports whether c is the original rather than t: somebody may have
// cloned a container together with its labels.
func (c Container) precedes(t Container) bool {
	if c.live() != t.live() {
		return c.live()
	}
	return c.Created.Before(t.Created)
}

func (v service) digest() score.Digest {
	if v.want == nil {
		return ""
	}
	return v.want.Digest
}

// due is the step to do now, if any, and else when to look again; zero means
// that only a change matters.
func (v service) due() (step *Step, wake time.Time) {
	if conceal := v.nextConceal(); !conceal.IsZero() {
		if !v.now.Before(conceal) {
			return v.step(Conceal, *v.stage()), time.Time{}
		}
		wake = conceal
	}
	if check := v.nextCheck(); !check.IsZero() {
		if !v.now.Before(check) {
			return v.step(Check, *v.target), time.Time{}
		}
		wake = earliest(wake, check)
	}
	next := v.next()
	if next == nil {
		return nil, earliest(wake, v.settles())
	}
	if wait := v.notBefore(next.Action); v.now.Before(wait) {
		return nil, earliest(wake, wait)
	}
	return next, time.Time{}
}

// notBefore is when the action may be tried, after it failed or after the
// container ended; zero means now.
func (v service) notBefore(action Action) (at time.Time) {
	if action == v.memory.failed {
		at = v.memory.retry
	}
	if action == Pull && v.memory.turn.After(at) {
		at = v.memory.turn
	}
	if action == Start && v.memory.restart.After(at) {
		at = v.memory.restart
	}
	return at
}

// next is the one step that leads on from here, whatever led here. The old
// container is stopped only when the new one stands ready to be started, so that
// an image, a path or a setting that is wrong leaves the old one running.
func (v service) next() *Step {
	if v.hold != nil {
		return v.sustain()
	}
	if v.want == nil {
		return v.dismantle()
	}
	t := v.target
	if old := v.interrupted(); t == nil && old != nil && !v.memory.revived {
		return v.step(Start, *old)
	}
	switch {
	case t == nil && v.want.Withheld != nil:
		return nil // and the old one goes on
	case t == nil && !v.memory.pulled:
		return v.pull()
	case t == nil:
		return v.step(Create, Container{})
	case t.State == Broken:
		return v.step(Remove, *t)
	case t.State == Stopping:
		return v.step(Stop, *t)
	}
	if i := slices.IndexFunc(v.others, Container.inTheWay); i >= 0 {
		return v.takeDown(v.others[i])
	}
	if t.State == Exited && !v.memory.examined {
		return v.step(Examine, *t)
	}
	if v.mustStart() {
		return v.step(Start, *t)
	}
	return v.tidy()
}

func (v service) step(action Action, c Container) *Step {
	s := &Step{Key: v.key, Action: action, Container: c}
	if v.want != nil {
		s.Service = *v.want
	}
	return s
}

// interrupted is the container of another version that the power was cut from, when
// nothing of the service runs; nil else. It runs again until the wanted one stands
// ready, which may take hours to pull, or a network that is not there.
func (v service) interrupted() (last *Container) {
	for i, c := range v.others {
		if c.State != Exited && c.State != Created {
			return nil
		}
		if c.State == Exited && (last == nil || c.Started.After(last.Started)) {
			last = &v.others[i]
		}
	}
	if last == nil || !last.cutOff() {
		return nil
	}
	return last
}

// inTheWay reports whether c may hold ports.
func (c Container) inTheWay() bool { return c.live() || c.State == Paused }

// takeDown is the next step towards the end of c.
func (v service) takeDown(c Container) *Step {
	if c.live() {
		return v.step(Stop, c)
	}
	return v.step(Remove, c)
}

// dismantle takes away whatever is there: first all stop, then they go.
func (v service) dismantle() *Step {
	if i := slices.IndexFunc(v.others, Container.live); i >= 0 {
		return v.takeDown(v.others[i])
	}
	if len(v.others) > 0 {
		return v.takeDown(v.others[0])
	}
	return nil
}

// tidy removes the containers of other versions: all when the wanted one does
// what it should, and before that all but the one that ran last, to which an
// undo may lead back.
func (v service) tidy() *Step {
	var last *Container
	if v.containerStatus().Phase != succeeded {
		for i, c := range v.others {
			if c.State == Exited && (last == nil || c.Started.After(last.Started)) {
				last = &v.others[i]
			}
		}
	}
	for i := range v.others {
		if &v.others[i] != last {
			return v.step(Remove, v.others[i])
		}
	}
	return nil
}

// mustStart reports whether the wanted container, of which no other version is
// live, shall be started.
func (v service) mustStart() bool {
	t := v.target
	switch {
	case t.State == Created:
		return true
	case t.State != Exited:
		return false
	case t.cutOff():
		return true
	case v.memory.failed == Start: // it never got to run
		return true
	case slices.ContainsFunc(v.others, func(c Container) bool {
		return c.Created.After(t.Started) || c.Started.After(t.Started)
	}): // stopped for another version, and wanted again
		return true
	}
	switch v.want.Spec.RestartPolicy.OrDefault() {
	case score.RestartNever:
		return false
	case score.RestartOnFailure:
		return t.ExitCode != 0
	case score.RestartAlways:
	}
	return true
}

// nextConceal is when the values of secrets shall be struck out of what podman
// shows of the container, which a start brings there, also one that fails; zero
// when they are not there.
func (v service) nextConceal() time.Time {
	t, m := v.stage(), v.memory
	if v.want == nil || t == nil || m.concealed || !t.Exposed && !v.want.exposed() {
		return time.Time{}
	}
	switch {
	case t.State == Running, t.State == Paused, t.State == Exited, t.State == Created && m.failed == Start:
	default:
		return time.Time{}
	}
	if m.conceal.IsZero() {
		return v.now
	}
	return m.conceal
}

// nextCheck is when the health check shall run; zero when it shall not.
func (v service) nextCheck() time.Time {
	if v.want == nil || v.want.Spec.HealthCheck == nil || v.target == nil || v.target.State != Running {
		return time.Time{}
	}
	if v.memory.health.next.IsZero() {
		return v.now
	}
	return v.memory.health.next
}

// settles is when a container that was just started will count as running; zero
// when it does, or does not run.
func (v service) settles() time.Time {
	if v.target == nil || v.target.State != Running {
		return time.Time{}
	}
	// The more often it ended, the longer it must run to be believed.
	at := v.memory.since.Add(max(settleTime, delay(v.memory.restarts)))
	if !v.now.Before(at) {
		return time.Time{}
	}
	return at
}

// earliest is the earlier of two times, where zero means never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
