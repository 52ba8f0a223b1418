package reconcile

import (
	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/apis/score"
)

// held has a service stay with the container that runs or ran last, as if that one
// were wanted, whatever is. What never ran is left as it is.
func (v service) held(h *hold.Hold) service {
	v.hold = h
	var stays *Container
	all := v.others
	if v.target != nil {
		all = append([]Container{*v.target}, v.others...)
	}
	for i, c := range all {
		ran := c.State != Created && c.State != Broken
		if ran && (stays == nil || c.outlasts(*stays)) {
			stays = &all[i]
		}
	}
	wanted := v.digest()
	v.withheld = stays == nil || stays.Digest != wanted
	v.target, v.others = stays, nil
	if v.withheld && stays != nil {
		v.want = v.want.standIn(v.key.Service, stays.Digest)
	}
	return v
}

// outlasts reports whether c is the one to stay with rather than s.
func (c Container) outlasts(s Container) bool {
	if c.inTheWay() != s.inTheWay() {
		return c.inTheWay()
	}
	return c.Started.After(s.Started)
}

// standIn is the service that a container of another version is kept by: it ends as
// the wanted one may end, and its health is nobody's concern. Of one that is not
// wanted at all it is not known whether it may end, so only a failure is undone.
func (svc *Service) standIn(name string, digest score.Digest) *Service {
	other := Service{Spec: score.Service{Name: name, RestartPolicy: score.RestartOnFailure}}
	if svc != nil {
		other = *svc
		other.Spec.HealthCheck = nil
	}
	other.Digest = digest
	return &other
}

// sustain is the next step while nothing may be changed: to start again what ended.
func (v service) sustain() *Step {
	t := v.target
	if t == nil || t.State != Exited {
		return nil
	}
	if !v.memory.examined {
		return v.step(Examine, *t)
	}
	if v.mustStart() {
		return v.step(Start, *t)
	}
	return nil
}
