package bench

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/agent/bus"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// returningDeployment is what each of the agents runs.
var returningDeployment = wire.DeploymentID{Namespace: "bench", Name: "app-0000"}

func cores() float64 { return float64(runtime.GOMAXPROCS(0)) }

// sleep waits, and fails when ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// agents are the connections of many devices, and how many of them are current.
type agents struct {
	all     []*simulated
	running sync.WaitGroup
	cancel  context.CancelFunc

	mu      sync.Mutex
	current int           // with mu
	failed  int           // with mu
	changed chan struct{} // has room for one: current has grown
}

// simulated is an agent without containers: a connection, and what the device
// holds.
type simulated struct {
	of        *agents
	bus       *bus.Bus
	connected bool // with of.mu; since the broker was lost last
	current   bool // with of.mu

	mu   sync.Mutex
	held store.Desired // with mu
}

// newAgents makes agents that have a token each and something to tell.
func newAgents(s *site, p *broker.Process) (*agents, error) {
	a := &agents{all: make([]*simulated, returning), changed: make(chan struct{}, 1)}
	return a, parallel(returning, func(i int) error {
		text, err := s.token(i, 0)
		if err != nil {
			return err
		}
		one := &simulated{of: a}
		one.bus = bus.New(bus.Options{
			Target: bus.Target{
				Device: deviceID(i), NATS: p.NATS(), TrustedKeys: p.TrustedKeys(), Tokens: token(text),
				Credentials: v1alpha1.Credentials{Type: v1alpha1.CredentialClientCredentials},
			},
			Session: fmt.Sprintf("%08x", i), Workloads: one, Connection: one.connection, Refused: one.read,
			Now: time.Now, Log: logr.Discard(),
		})
		a.all[i] = one
		if err := one.bus.PutInfo(wire.DeviceInfo{Labels: deviceLabels(i)}); err != nil {
			return err
		}
		return one.bus.PutState(returningDeployment, &wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running"})
	})
}

// start connects all agents, not many at a time, and returns when they are current.
func (a *agents) start(ctx context.Context) error {
	running, cancel := context.WithCancel(ctx)
	a.cancel = cancel
	for i, one := range a.all {
		if err := a.wait(ctx, i-50); err != nil {
			return err
		}
		a.running.Go(func() { one.bus.Run(running) })
	}
	return a.wait(ctx, len(a.all))
}

func (a *agents) stop() {
	if a.cancel != nil {
		a.cancel()
		a.running.Wait()
	}
}

// wait returns when so many are current.
func (a *agents) wait(ctx context.Context, n int) error {
	for {
		a.mu.Lock()
		current := a.current
		a.mu.Unlock()
		if current >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %d of %d are current", context.Cause(ctx), current, n)
		case <-a.changed:
		}
	}
}

// lose tells that the broker is gone: what agents learnt of it before does not
// count.
func (a *agents) lose() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.current = 0
	for _, one := range a.all {
		one.connected, one.current = false, false
	}
}

// failures is how many attempts to connect failed so far and how many connections
// ended, together.
func (a *agents) failures() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

// connection hears of the connection's changes.
func (s *simulated) connection(_ string, problem error) {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.connected = problem == nil
	if problem == nil {
		return
	}
	s.of.failed++
	if s.current {
		s.current = false
		s.of.current--
	}
}

// read hears what came of a look at the manifest.
func (s *simulated) read(problem error) {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	if problem != nil || !s.connected || s.current {
		return
	}
	s.current = true
	s.of.current++
	select {
	case s.of.changed <- struct{}{}:
	default:
	}
}

// Desired implements bus.Workloads.
func (s *simulated) Desired() store.Desired {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// Apply implements bus.Workloads.
func (s *simulated) Apply(d store.Desired) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = d
	return nil
}

// token is one that stays good for as long as it is needed.
type token string

// Token implements bus.Tokens.
func (t token) Token(context.Context) (string, error) { return string(t), nil }

// Renewed implements bus.Tokens.
func (t token) Renewed(ctx context.Context, _ string) bool { <-ctx.Done(); return false }

// Refused implements bus.Tokens.
func (t token) Refused(string) {}
