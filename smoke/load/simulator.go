package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// simulator is the agents of all devices, over a few connections to the account
// of the devices.
type simulator struct {
	plan   *plan
	random *rand.Rand
	conns  []connection
	errors atomic.Int64
	first  atomic.Pointer[error] // the first of them

	sent       atomic.Int64 // states
	heartbeats atomic.Int64
	repeated   atomic.Int64   // states and descriptions whose acknowledgement did not come
	repeating  sync.WaitGroup // repetitions on their way
	states     map[string]int // pair by subject

	mu     sync.Mutex // guards what follows: the writer and the prober share it
	serial uint64
	truths []truth // by pair
}

// connection is a NATS connection with publishing that does not wait for each
// acknowledgement.
type connection struct {
	nc *nats.Conn
	js jetstream.JetStream
}

const (
	connections = 4
	maxInFlight = 8192 // messages without an acknowledgement yet, per connection
	ackTimeout  = 30 * time.Second
)

func newSimulator(p *plan, seed uint64, broker v1alpha1.NATSSection, as v1alpha1.Credentials) (*simulator, error) {
	s := &simulator{plan: p, random: rand.New(rand.NewPCG(seed, 0)), truths: make([]truth, len(p.pairs)), states: map[string]int{}}
	for n := range p.pairs {
		s.states[s.subject(n)] = n
	}
	for range connections {
		nc, err := nats.Connect(broker.URLs[0], nats.Name("simulator"), nats.UserInfo(as.User, as.Password), nats.NoReconnect(),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.failed(err) }))
		if err != nil {
			s.close()
			return nil, fmt.Errorf("connecting the simulator: %w", err)
		}
		js, err := jetstream.New(nc,
			jetstream.WithPublishAsyncMaxPending(maxInFlight),
			jetstream.WithPublishAsyncTimeout(ackTimeout),
			jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) { s.unanswered(m, err) }))
		if err != nil {
			nc.Close()
			s.close()
			return nil, fmt.Errorf("preparing the simulator's connection: %w", err)
		}
		s.conns = append(s.conns, connection{nc, js})
	}
	return s, nil
}

func (s *simulator) close() {
	for _, c := range s.conns {
		c.nc.Close()
	}
}

func (s *simulator) failed(err error) {
	s.errors.Add(1)
	s.first.CompareAndSwap(nil, &err)
}

// firstError is the first error of all, or nil.
func (s *simulator) firstError() error {
	if err := s.first.Load(); err != nil {
		return *err
	}
	return nil
}

// publish sends a message whose acknowledgement settle waits for. Messages that
// were published with the same n arrive in their order.
func (s *simulator) publish(n int, subject string, payload []byte) (jetstream.PubAckFuture, error) {
	ack, err := s.conns[n%connections].js.PublishAsync(subject, payload, jetstream.WithStallWait(ackTimeout))
	if err != nil {
		return nil, fmt.Errorf("publishing to %s: %w", subject, err)
	}
	return ack, nil
}

// unanswered does what an agent does when the acknowledgement of a write does not
// come: it writes again, and what is true then. All else is an error.
func (s *simulator) unanswered(m *nats.Msg, err error) {
	if !errors.Is(err, jetstream.ErrAsyncPublishTimeout) {
		s.failed(fmt.Errorf("publishing to %s: %w", m.Subject, err))
		return
	}
	s.repeated.Add(1)
	s.repeating.Go(func() {
		var err error
		if n, isState := s.states[m.Subject]; isState {
			err = s.repeatState(n)
		} else {
			_, err = s.publish(0, m.Subject, m.Data)
		}
		if err != nil {
			s.failed(err)
		}
	})
}

// settle waits until everything published is acknowledged or counted as an error.
func (s *simulator) settle(ctx context.Context) error {
	for {
		for _, c := range s.conns {
			select {
			case <-c.js.PublishAsyncComplete():
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if s.repeating.Wait(); s.unacknowledged() == 0 {
			return nil
		}
	}
}

// unacknowledged is how many messages have neither an acknowledgement nor an error.
func (s *simulator) unacknowledged() int {
	n := 0
	for _, c := range s.conns {
		n += c.js.PublishAsyncPending()
	}
	return n
}

// introduce publishes what each device is, and its first heartbeat.
func (s *simulator) introduce(ctx context.Context) error {
	for i, d := range s.plan.devices {
		if err := ctx.Err(); err != nil {
			return err
		}
		payload, err := d.info().Encode()
		if err != nil {
			return err
		}
		if _, err := s.publish(i, wire.DeviceInfos.Subject(wire.DeviceKey(d.id)), payload); err != nil {
			return err
		}
		if err := s.beat(i); err != nil {
			return err
		}
	}
	return s.settle(ctx)
}

// beat sends one heartbeat of device i, as agents do: without an acknowledgement.
func (s *simulator) beat(i int) error {
	// The simulator reads no manifests: its devices are for ever behind.
	payload, err := wire.Heartbeat{Session: fmt.Sprintf("%08x", i)}.Encode()
	if err != nil {
		return err
	}
	s.heartbeats.Add(1)
	return s.conns[i%connections].nc.Publish(wire.DeviceHeartbeats.Subject(wire.DeviceKey(s.plan.devices[i].id)), payload)
}

// beatAll sends each device's heartbeat once, evenly over a time, except for
// silent devices when hush says so.
func (s *simulator) beatAll(ctx context.Context, over time.Duration, hush func() bool) error {
	devices := len(s.plan.devices)
	begin := time.Now()
	next := 0
	return ticks(ctx, begin.Add(over), func(now time.Time) error {
		due := min(devices, int(float64(devices)*float64(now.Sub(begin))/float64(over)))
		for ; next < due; next++ {
			if s.plan.devices[next].silent && hush() {
				continue
			}
			if err := s.beat(next); err != nil {
				return fmt.Errorf("sending a heartbeat: %w", err)
			}
		}
		return nil
	})
}

// beatForever keeps up the heartbeats until ctx ends. A failure counts as an error.
func (s *simulator) beatForever(ctx context.Context, hush func() bool) {
	for ctx.Err() == nil {
		if err := s.beatAll(ctx, wire.HeartbeatInterval, hush); err != nil && ctx.Err() == nil {
			s.failed(err)
			return
		}
	}
}

// write publishes states of random pairs at a rate per second for a time. When
// it falls behind it sends what is due at once, and what it could not send by
// the end is not sent: the rate achieved then shows it.
func (s *simulator) write(ctx context.Context, rate int, duration time.Duration) error {
	var pairs []int
	for n, p := range s.plan.pairs {
		if !s.plan.deployments[p.deployment].probe {
			pairs = append(pairs, n)
		}
	}
	if len(pairs) == 0 {
		return errors.New("no selector matches any device")
	}
	begin := time.Now()
	var sent int
	return ticks(ctx, begin.Add(duration), func(now time.Time) error {
		for due := int(float64(rate) * now.Sub(begin).Seconds()); sent < due && time.Since(begin) < duration; sent++ {
			if _, err := s.writeState(pairs[s.random.IntN(len(pairs))], draw(s.random)); err != nil {
				return err
			}
		}
		return nil
	})
}

// writeState publishes a state of a pair, which is the truth from now on.
func (s *simulator) writeState(n int, t truth) (jetstream.PubAckFuture, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.putState(n, t)
}

// repeatState publishes the truth of a pair once more.
func (s *simulator) repeatState(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.putState(n, s.truths[n])
	return err
}

// putState must be called with mu held.
func (s *simulator) putState(n int, t truth) (jetstream.PubAckFuture, error) {
	deployment := s.plan.pairs[n].deployment
	s.serial++
	t.serial = s.serial
	payload, err := t.state(s.plan.deployments[deployment]).Encode()
	if err != nil {
		return nil, err
	}
	s.truths[n] = t
	s.sent.Add(1)
	// By Deployment, so that the newest error of each is known.
	return s.publish(deployment, s.subject(n), payload)
}

// subject is where the state of a pair is written.
func (s *simulator) subject(n int) string {
	p := s.plan.pairs[n]
	return wire.DeviceStates.Subject(wire.DeploymentKey(s.plan.devices[p.device].id, s.plan.deployments[p.deployment].id))
}

// ticks calls step often until the end, and once at the end.
func ticks(ctx context.Context, end time.Time, step func(now time.Time) error) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for now := time.Now(); now.Before(end); now = time.Now() {
		if err := step(now); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
	return step(end)
}
