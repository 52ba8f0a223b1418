package workload

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// Steps at the same time. Pulls, which may take hours, have their own share.
	maxPulls, maxOthers = 3, 4
	// failedLooks is how many looks in a row must fail before that is reported:
	// podman's service may just be restarting.
	failedLooks = 4
	// maxLookDelay is the longest pause between two looks while they fail.
	maxLookDelay = 30 * time.Second
)

// loop is the state of Run, which alone touches it. Steps run in goroutines of
// their own and hand their outcomes back over done.
type loop struct {
	*Manager
	memory map[wire.DeploymentID]map[string]reconcile.Memory
	busy   map[wire.DeploymentID]map[string]task
	done   chan result
	steps  sync.WaitGroup
	// misses is how many looks in a row failed.
	misses int
	holds  hold.Watch
	// images that were pulled here.
	images collector
	// unread is why a hold could not be read the last time.
	unread string
}

type task struct {
	step   reconcile.Step
	cancel context.CancelFunc
}

type result struct {
	step    reconcile.Step
	outcome reconcile.Outcome
	// dropped says that the step was cancelled, so that the outcome says nothing.
	dropped bool
}

// Run carries out what is desired until ctx ends. It returns when no step runs
// any more; containers stay as they are.
func (m *Manager) Run(ctx context.Context) error {
	l := &loop{
		Manager: m, done: make(chan result, maxPulls+maxOthers),
		memory: map[wire.DeploymentID]map[string]reconcile.Memory{}, busy: map[wire.DeploymentID]map[string]task{},
		images: m.newCollector(),
	}
	defer l.steps.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var pulse <-chan time.Time
	if m.options.Pulse > 0 {
		pulse = time.Tick(m.options.Pulse)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pulse:
			m.options.Alive()
			continue // the timer stands
		case <-m.wake:
		case <-m.options.Secrets.Changed():
		case <-timer.C:
		case gone := <-l.images.removed:
			l.images.forget(gone)
		case r := <-l.done:
			l.finish(r)
			for more := true; more; {
				select {
				case r := <-l.done:
					l.finish(r)
				default:
					more = false
				}
			}
		}
		timer.Reset(l.turn(ctx))
	}
}

// turn looks, plans, begins steps, and returns how long nothing needs to be done.
func (l *loop) turn(ctx context.Context) time.Duration {
	l.mu.Lock()
	wanted, known := l.wanted, l.desired.Generation > 0
	l.mu.Unlock()
	held := l.look()
	if !known {
		return l.options.PollInterval // nothing is known, so nothing is touched
	}
	containers, err := l.options.Podman.List(ctx, l.options.Device)
	if err != nil {
		return l.missed(ctx, err)
	}
	if l.misses >= failedLooks {
		l.options.Log.Info("podman is back")
	}
	l.misses = 0
	l.options.Secrets.Used(used(containers))
	wake := l.options.PollInterval
	if held > 0 {
		wake = min(wake, held)
	}
	for id, s := range l.situations(wanted, containers) {
		plan := reconcile.Make(s)
		l.memory[id] = plan.Memory
		for _, key := range plan.Cancel {
			l.busy[id][key.Service].cancel()
		}
		for _, step := range plan.Steps {
			l.begin(ctx, step)
		}
		if !plan.Wake.IsZero() {
			wake = min(wake, max(0, plan.Wake.Sub(s.Now)))
		}
		l.report(id, plan)
	}
	l.collect(ctx, wanted, containers)
	return wake
}

// missed takes in that podman could not be looked at. What is known stays until
// that has happened a few times.
func (l *loop) missed(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil {
		return 0
	}
	failure := reconcile.Failure{Reason: reconcile.ReasonPodmanUnavailable, Message: err.Error()}
	if own := new(reconcile.Failure); errors.As(err, &own) {
		failure = *own
	}
	before := l.misses
	if l.misses++; failure.Reason == reconcile.ReasonPodmanTimeout {
		l.misses++ // a service that restarts would have answered in that time
	}
	if l.misses >= failedLooks && before < failedLooks {
		l.options.Log.Error(err, "podman cannot be looked at")
	}
	if l.misses >= failedLooks {
		l.mu.Lock()
		wanted, unsaved, known := l.wanted, l.unsaved, maps.Clone(l.known)
		l.mu.Unlock()
		states := map[wire.DeploymentID]wire.DeviceState{}
		for id, w := range wanted {
			states[id] = wire.DeviceState{
				Phase: wire.PhaseFailed, Reason: failure.Reason, Digest: w.Digest, Message: wire.CleanText(failure.Message, wire.MaxMessage),
			}
		}
		maps.Copy(states, unsaved)
		for id, state := range states {
			state.Containers = known[id].state.Containers
			l.say(id, state, time.Time{})
		}
	}
	return min(maxLookDelay, time.Second<<min(l.misses-1, 5))
}

// situations are all Deployments that are wanted, or here, or were here.
func (l *loop) situations(wanted map[wire.DeploymentID]reconcile.Wanted, containers []reconcile.Container) map[wire.DeploymentID]reconcile.Situation {
	all := map[wire.DeploymentID]reconcile.Situation{}
	now, secrets, held := l.options.Clock(), l.options.Secrets.Secrets(), l.Hold()
	add := func(id wire.DeploymentID) {
		if _, there := all[id]; there {
			return
		}
		s := reconcile.Situation{ID: id, Memory: l.memory[id], Secrets: secrets, Busy: map[string]reconcile.Step{}, Pulls: l.options.Pulls, Hold: held, Now: now}
		if w, wants := wanted[id]; wants {
			s.Wanted = &w
		}
		for service, t := range l.busy[id] {
			s.Busy[service] = t.step
		}
		all[id] = s
	}
	for id := range wanted {
		add(id)
	}
	for id := range l.memory {
		add(id)
	}
	for id := range l.unsavedStates() {
		add(id)
	}
	for id := range l.States() {
		add(id)
	}
	for _, c := range containers {
		add(c.Deployment)
		s := all[c.Deployment]
		s.Containers = append(s.Containers, c)
		all[c.Deployment] = s
	}
	return all
}

// used are the names of podman's secrets that containers have.
func used(containers []reconcile.Container) (names []string) {
	for _, c := range containers {
		names = append(names, c.Secrets...)
	}
	return names
}

// report says what a plan says of its Deployment.
func (l *loop) report(id wire.DeploymentID, plan reconcile.Plan) {
	unsaved, is := l.unsavedStates()[id]
	switch {
	case is:
		if plan.State != nil {
			unsaved.Containers = plan.State.Containers
		}
		l.say(id, unsaved, time.Time{})
	case plan.Gone:
		delete(l.memory, id)
		l.sayGone(id)
	case plan.State != nil:
		l.say(id, *plan.State, plan.Retry)
	}
}

// begin starts a step, unless too many run: the end of one of them leads to the
// next turn, which plans it again.
func (l *loop) begin(ctx context.Context, step reconcile.Step) {
	pulls, others := 0, 0
	for _, services := range l.busy {
		for _, t := range services {
			if t.step.Action == reconcile.Pull {
				pulls++
			} else {
				others++
			}
		}
	}
	if isPull := step.Action == reconcile.Pull; isPull && pulls >= maxPulls || !isPull && others >= maxOthers {
		return
	}
	if step.Action != reconcile.Check && step.Action != reconcile.Examine {
		l.options.Log.Info("step begins", "action", step.Action, "deployment", step.Deployment.String(), "service", step.Key.Service, "container", step.Container.ID)
	}
	ctx, cancel := context.WithCancel(ctx)
	if l.busy[step.Deployment] == nil {
		l.busy[step.Deployment] = map[string]task{}
	}
	l.busy[step.Deployment][step.Key.Service] = task{step, cancel}
	l.steps.Go(func() {
		outcome := l.options.Podman.Do(ctx, l.options.Device, step)
		outcome.Jitter = rand.Float64()
		l.done <- result{step, outcome, outcome.Err != nil && ctx.Err() != nil}
	})
}

// finish takes in the outcome of a step.
func (l *loop) finish(r result) {
	id, service := r.step.Deployment, r.step.Key.Service
	l.busy[id][service].cancel()
	delete(l.busy[id], service)
	if len(l.busy[id]) == 0 {
		delete(l.busy, id)
	}
	l.images.pulled(r)
	if r.dropped {
		return
	}
	if r.outcome.Err != nil {
		l.options.Log.Info("step failed", "action", r.step.Action, "deployment", id.String(), "service", service,
			"reason", r.outcome.Err.Reason, "error", r.outcome.Err.Message)
	}
	if l.memory[id] != nil {
		l.memory[id][service] = l.memory[id][service].After(r.step, r.outcome, l.options.Clock())
	}
}
