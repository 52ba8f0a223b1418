package reconcile

import (
	"maps"
	"slices"
	"time"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Situation is everything that is known of one Deployment on this device.
type Situation struct {
	ID wire.DeploymentID
	// Wanted is nil when nothing of the Deployment shall be here.
	Wanted *Wanted
	// Containers of the Deployment, and of no other.
	Containers []Container
	// Memory of each service, as the last plan and the outcomes since left it.
	Memory map[string]Memory
	// Secrets that are wanted, as they stand; one that is missing was not read yet.
	Secrets map[SecretKey]Secret
	// Busy is the step that is on its way for a service.
	Busy map[string]Step
	// Pulls is how images are fetched.
	Pulls Pulls
	// Hold is why nothing may be changed now; nil when it may.
	Hold *hold.Hold
	Now  time.Time
}

// Plan is what to do and what to say.
type Plan struct {
	// Steps to begin now, at most one for a service and none for a busy one.
	Steps []Step
	// Cancel names busy services whose step leads nowhere any more.
	Cancel []Key
	// State to report; nil when there is nothing new to say.
	State *wire.DeviceState
	// Gone says that nothing of the Deployment is wanted or left.
	Gone bool
	// Wake is when to plan again though nothing changed; zero for never.
	Wake time.Time
	// Retry is when something that failed or ended will be tried again; zero when
	// nothing waits for that.
	Retry time.Time
	// Memory to plan with the next time.
	Memory map[string]Memory
}

// Make decides for one Deployment.
func Make(s Situation) Plan {
	if s.Wanted != nil && s.Wanted.Err != nil {
		return Plan{State: &wire.DeviceState{
			Phase: failed, Reason: ReasonUnsupportedScore, Digest: s.Wanted.Digest,
			Message: wire.CleanText("this agent cannot run it: "+s.Wanted.Err.Error(), wire.MaxMessage),
		}}
	}
	wanted, unwanted := services(s)
	p := Plan{Memory: map[string]Memory{}}
	for _, v := range unwanted {
		p.add(v, s, false)
	}
	var order order
	for _, v := range wanted {
		p.add(v, s, order.holdsBack(v, s))
	}
	if s.Wanted != nil {
		p.State = overall(*s.Wanted, wanted)
	}
	p.Gone = s.Wanted == nil && len(unwanted) == 0
	return p
}

// services are the wanted ones in the score's order, and the others that are
// here.
func services(s Situation) (wanted, unwanted []service) {
	left := map[string]bool{}
	for _, c := range s.Containers {
		left[c.Service] = true
	}
	for name := range s.Busy {
		left[name] = true
	}
	if s.Wanted != nil {
		for _, want := range s.Wanted.Services {
			want = want.Supplied(s.ID, s.Secrets)
			wanted = append(wanted, newService(Key{s.ID, want.Spec.Name}, &want, s))
			delete(left, want.Spec.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		unwanted = append(unwanted, newService(Key{s.ID, name}, nil, s))
	}
	return wanted, unwanted
}

func (p *Plan) add(v service, s Situation, holdBack bool) {
	p.Memory[v.key.Service] = v.memory
	if busy, isBusy := s.Busy[v.key.Service]; isBusy {
		// A pull may take hours, and nothing else that is cancelled is undone.
		if busy.Action == Pull && (v.hold != nil || busy.Service.Digest != v.digest()) {
			p.Cancel = append(p.Cancel, v.key)
		}
		return
	}
	step, wake := v.due()
	p.Wake = earliest(p.Wake, wake)
	if next := v.next(); next != nil && v.now.Before(v.notBefore(next.Action)) {
		p.Retry = earliest(p.Retry, v.notBefore(next.Action))
	}
	if step != nil && (!holdBack || step.Action != Start) {
		p.Steps = append(p.Steps, *step)
	}
}

// order has services started one after the other: a start waits while an
// earlier service is being started and, when it is the first start, while an
// earlier one is on its way there at all. One that waits to be tried again holds
// back nothing.
type order struct{ starting, underway bool }

// holdsBack reports whether a start of v has to wait, and takes v in.
func (o *order) holdsBack(v service, s Situation) bool {
	firstStart := v.target != nil && v.target.State == Created
	hold := o.starting || (firstStart && o.underway)
	step, _ := v.due()
	if busy, isBusy := s.Busy[v.key.Service]; isBusy {
		step = &busy
	}
	if step != nil && step.Action != Check {
		o.underway = true
		o.starting = o.starting || step.Action == Start
	}
	return hold
}
