package reconcile_test

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

var deployment = wire.DeploymentID{Namespace: "shop", Name: "web"}

// model is a podman in memory, together with the part of an agent that plans and
// carries out: what a test needs to play any order of events.
type model struct {
	now        time.Time
	containers []reconcile.Container
	made       int

	wanted *reconcile.Wanted
	memory map[string]reconcile.Memory
	busy   map[string]reconcile.Step
	// secrets as they stand, and the containers whose environment shows a value.
	secrets map[reconcile.SecretKey]reconcile.Secret
	shows   map[string]bool
	// pulls is how images are fetched, and here are those that were.
	pulls reconcile.Pulls
	here  map[string]bool
	// hold has nothing changed.
	hold *hold.Hold
	// unhealthy has each health check fail.
	unhealthy bool
	// broken names a rule that a step broke.
	broken string
}

func newModel() *model {
	return &model{now: time.Unix(1_800_000_000, 0), memory: map[string]reconcile.Memory{}, busy: map[string]reconcile.Step{}, shows: map[string]bool{}, here: map[string]bool{}}
}

// want sets the desired services; none means that the Deployment is gone.
func (m *model) want(services ...score.Service) {
	m.wanted = nil
	if len(services) == 0 {
		return
	}
	canonical, err := score.Encode(score.Score{PodmanV0: &score.PodmanV0{Services: services}})
	if err != nil {
		panic(err)
	}
	w := reconcile.Want(score.DigestOf(canonical), canonical)
	m.wanted = &w
}

// plan makes a plan and begins its steps.
func (m *model) plan() reconcile.Plan {
	p := reconcile.Make(reconcile.Situation{
		ID: deployment, Wanted: m.wanted, Containers: slices.Clone(m.containers), Memory: m.memory, Secrets: m.secrets, Busy: m.busy, Pulls: m.pulls, Hold: m.hold, Now: m.now,
	})
	m.memory = p.Memory
	for _, step := range p.Steps {
		m.judge(step)
		if _, isBusy := m.busy[step.Service.Spec.Name]; isBusy && step.Service.Spec.Name != "" {
			m.broken = "a second step for a busy service"
		}
		m.busy[step.Key.Service] = step
	}
	return p
}

// changes are the actions that a hold forbids.
var changes = map[reconcile.Action]bool{reconcile.Pull: true, reconcile.Create: true, reconcile.Stop: true, reconcile.Remove: true}

// judge holds a step against what must never be planned.
func (m *model) judge(step reconcile.Step) {
	if m.hold != nil && (changes[step.Action] || step.Action == reconcile.Start && step.Container.State != reconcile.Exited) {
		m.broken = fmt.Sprintf("%s while nothing may be changed", step.Action)
	}
	if svc := m.service(step.Key.Service); svc != nil && svc.Withheld != nil && step.Action == reconcile.Create {
		m.broken = "a container is made though " + svc.Withheld.Message
	}
	if step.Action == reconcile.Create && !m.here[step.Service.Spec.Image] {
		m.broken = "a container is made of an image that is not here"
	}
	if step.Action != reconcile.Stop && step.Action != reconcile.Remove {
		return
	}
	c, svc := step.Container, m.service(step.Key.Service)
	switch {
	case svc == nil:
	case c.Digest == svc.Digest && c.State == reconcile.Running && !m.duplicate(c):
		m.broken = fmt.Sprintf("%s of an unchanged container that runs", step.Action)
	case c.State == reconcile.Running && !slices.ContainsFunc(m.containers, func(o reconcile.Container) bool {
		return o.Key == c.Key && o.Digest == svc.Digest
	}):
		m.broken = "the old container is stopped before the new one is there"
	case c.State == reconcile.Running && step.Action == reconcile.Remove:
		m.broken = "a running container is removed"
	}
}

func (m *model) duplicate(c reconcile.Container) bool {
	return slices.ContainsFunc(m.containers, func(o reconcile.Container) bool {
		return o.ID != c.ID && o.Key == c.Key && o.Digest == c.Digest
	})
}

func (m *model) service(name string) *reconcile.Service {
	if m.wanted == nil {
		return nil
	}
	for _, svc := range m.wanted.Services {
		if svc = svc.Supplied(deployment, m.secrets); svc.Spec.Name == name {
			return &svc
		}
	}
	return nil
}

// names of the busy services, in a fixed order.
func (m *model) names() []string { return slices.Sorted(maps.Keys(m.busy)) }

// finish carries out the step of a busy service, unless it fails.
func (m *model) finish(name string, failure *reconcile.Failure) {
	step := m.busy[name]
	delete(m.busy, name)
	outcome := reconcile.Outcome{Err: failure, Health: reconcile.Health{OK: !m.unhealthy, Output: "not well"}}
	if failure == nil {
		outcome.Absent = step.Action == reconcile.Pull && step.Delay > 0 && !m.here[step.Service.Spec.Image]
		outcome.Err = m.effect(step)
	}
	m.memory[name] = m.memory[name].After(step, outcome, m.now)
}

// effect is what podman does.
func (m *model) effect(step reconcile.Step) *reconcile.Failure {
	i := slices.IndexFunc(m.containers, func(c reconcile.Container) bool { return c.ID == step.Container.ID })
	refuse := func(text string) *reconcile.Failure {
		return &reconcile.Failure{Reason: reconcile.ReasonPodmanError, Message: text}
	}
	switch step.Action {
	case reconcile.Create:
		for _, c := range m.containers {
			if c.Key == step.Key && c.Digest == step.Service.Digest {
				return refuse("the name is already in use")
			}
		}
		m.made++
		m.containers = append(m.containers, reconcile.Container{
			ID: fmt.Sprint("c", m.made), Key: step.Key, Digest: step.Service.Digest, State: reconcile.Created, Created: m.now,
			Exposed: slices.ContainsFunc(step.Service.Spec.Secrets, func(s score.Secret) bool { return s.Env != "" }),
		})
	case reconcile.Start:
		if i < 0 {
			return refuse("no such container")
		}
		m.shows[step.Container.ID] = true
		for _, c := range m.containers {
			if c.Key == step.Key && (c.State == reconcile.Running || c.State == reconcile.Paused) && c.ID != step.Container.ID {
				m.broken = "two live containers of one service"
			}
			if c.Key == step.Key && c.State == reconcile.Releasing && m.now.Sub(c.Exited) < reconcile.ReleaseTime {
				m.broken = "a start on a port that podman is about to release"
			}
		}
		m.containers[i].State, m.containers[i].Started = reconcile.Running, m.now
	case reconcile.Stop:
		if i < 0 {
			return refuse("no such container")
		}
		if m.containers[i].State != reconcile.Exited {
			m.end(i, 143)
		}
	case reconcile.Remove:
		if i >= 0 {
			m.containers = slices.Delete(m.containers, i, i+1)
		}
	case reconcile.Conceal:
		delete(m.shows, step.Container.ID)
	case reconcile.Pull:
		m.here[step.Service.Spec.Image] = m.here[step.Service.Spec.Image] || step.Delay == 0
	case reconcile.Check, reconcile.Examine:
	}
	return nil
}

// end has the container's process end.
func (m *model) end(i, code int) {
	c := &m.containers[i]
	c.State, c.ExitCode, c.Exited = reconcile.Exited, code, m.now
}

// restartAgent loses what the process knew and the steps that had not begun.
func (m *model) restartAgent() {
	m.memory, m.busy = map[string]reconcile.Memory{}, map[string]reconcile.Step{}
}

// settle plays on without trouble until nothing happens any more but health
// checks, longer than any back-off lasts, and returns the last plan.
func (m *model) settle() (reconcile.Plan, bool) {
	worked := m.now
	for range 1000 {
		p := m.plan()
		busy := m.names()
		for _, name := range busy {
			if m.busy[name].Action != reconcile.Check {
				worked = m.now
			}
			m.finish(name, nil)
		}
		switch {
		case len(busy) > 0:
		case p.Wake.IsZero() || m.now.Sub(worked) > 6*time.Minute:
			return p, true
		default:
			m.now = p.Wake
		}
	}
	return reconcile.Plan{}, false
}
