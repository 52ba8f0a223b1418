package bench

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/nationtech/harmony-fleet/agent/bus"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/device/simulated"
)

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

// agents are many simulated devices, and how many of them are current.
type agents struct {
	all     []*agent
	running sync.WaitGroup
	cancel  context.CancelFunc

	mu      sync.Mutex
	current int           // with mu
	failed  int           // with mu
	changed chan struct{} // has room for one: current has grown
}

// agent is the one of a device, and what it has learnt of the broker.
type agent struct {
	of        *agents
	device    *simulated.Device
	connected bool // with of.mu; since the broker was lost last
	current   bool // with of.mu
}

// newAgents makes agents that have a token each and something to tell.
func newAgents(s *site, p *broker.Process) (*agents, error) {
	a := &agents{all: make([]*agent, returning), changed: make(chan struct{}, 1)}
	return a, parallel(returning, func(i int) error {
		text, err := s.token(i, 0)
		if err != nil {
			return err
		}
		one := &agent{of: a}
		a.all[i] = one
		one.device, err = simulated.New(simulated.Options{
			Target: bus.Target{
				Device: deviceID(i), NATS: p.NATS(), TrustedKeys: p.TrustedKeys(), Tokens: token(text),
				Credentials: v1alpha1.Credentials{Type: v1alpha1.CredentialClientCredentials},
			},
			Labels: deviceLabels(i), Connection: one.connection, Refused: one.read,
		})
		return err
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
		a.running.Go(func() { one.device.Run(running) })
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
func (one *agent) connection(_ string, problem error) {
	one.of.mu.Lock()
	defer one.of.mu.Unlock()
	one.connected = problem == nil
	if problem == nil {
		return
	}
	one.of.failed++
	if one.current {
		one.current = false
		one.of.current--
	}
}

// read hears what came of a look at the manifest.
func (one *agent) read(problem error) {
	one.of.mu.Lock()
	defer one.of.mu.Unlock()
	if problem != nil || !one.connected || one.current {
		return
	}
	one.current = true
	one.of.current++
	select {
	case one.of.changed <- struct{}{}:
	default:
	}
}

// token is one that stays good for as long as it is needed.
type token string

// Token implements bus.Tokens.
func (t token) Token(context.Context) (string, error) { return string(t), nil }

// Renewed implements bus.Tokens.
func (t token) Renewed(ctx context.Context, _ string) bool { <-ctx.Done(); return false }

// Refused implements bus.Tokens.
func (t token) Refused(string) {}
