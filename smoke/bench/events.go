package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/operator/fleet"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// events measures how fast the states in a bucket are read and aggregated, from
// a broker in a process of its own, against an ordered consumer of the same
// bucket whose messages are dropped.
func (b *bench) events(ctx context.Context) error {
	for _, devices := range []int{10_000, 100_000} {
		if err := b.eventsOf(ctx, devices); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) eventsOf(ctx context.Context, devices int) error {
	p, err := broker.StartProcess(ctx, broker.Options{})
	if err != nil {
		return err
	}
	defer p.Stop()
	states, err := fill(ctx, p, devices)
	if err != nil {
		return fmt.Errorf("filling the bucket: %w", err)
	}
	var bare, aggregated series
	for range rounds {
		took, err := readBare(ctx, p, states)
		if err != nil {
			return fmt.Errorf("reading with a bare consumer: %w", err)
		}
		bare = append(bare, float64(states)/took.Seconds())
		if took, err = aggregate(ctx, p, devices); err != nil {
			return fmt.Errorf("aggregating: %w", err)
		}
		aggregated = append(aggregated, float64(states)/took.Seconds())
	}
	name := fmt.Sprintf("%d states of %d devices, %d deployments", states, devices, deployments)
	b.add(row{what: name + ", dropped", unit: "1/s", values: bare})
	b.add(row{what: name + ", aggregated", unit: "1/s", values: aggregated})
	b.add(row{what: name + ", aggregated over dropped", values: ratio(aggregated, bare), atLeast: 0.5})
	return nil
}

// fill writes one state for each matching pair.
func fill(ctx context.Context, p *broker.Process, devices int) (states int, err error) {
	as := p.Provisioner()
	nc, err := nats.Connect(p.URL(), nats.UserInfo(as.User, as.Password))
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	var once sync.Once
	var failure error
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(10_000),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { once.Do(func() { failure = err }) }))
	if err != nil {
		return 0, err
	}
	_, writes := newFleet(devices)
	for _, w := range writes {
		for _, put := range w.Put {
			state := wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: w.Manifest.Deployments[put.Deployment.Token()].Digest,
				Containers: []wire.ContainerRef{{Service: "web", ID: fmt.Sprintf("%064x", states)}}}
			payload, err := state.Encode()
			if err != nil {
				return 0, err
			}
			subject := wire.DeviceStates.Subject(wire.DeploymentKey(w.Device, put.Deployment))
			if _, err := js.PublishAsync(subject, payload, jetstream.WithStallWait(time.Minute)); err != nil {
				return 0, err
			}
			states++
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	once.Do(func() {}) // the handler is done with failure
	return states, failure
}

// readBare reads everything and drops it.
func readBare(ctx context.Context, p *broker.Process, states int) (time.Duration, error) {
	as := p.Operator()
	nc, err := nats.Connect(p.URL(), nats.UserInfo(as.User, as.Password))
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	consumer, err := js.OrderedConsumer(ctx, wire.DeviceStates.Stream(), jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return 0, err
	}
	done, left := make(chan struct{}), states
	consuming, err := consumer.Consume(func(jetstream.Msg) {
		if left--; left == 0 {
			close(done)
		}
	}, jetstream.PullMaxBytes(16<<20)) // as much as the operator asks for at once
	if err != nil {
		return 0, err
	}
	defer consuming.Stop()
	select {
	case <-done:
		return time.Since(begin), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// aggregator does with each state what the operator does.
type aggregator struct {
	mu       sync.Mutex
	fleet    *fleet.Fleet
	poison   error
	caughtUp chan struct{}
}

// Reset implements bus.Follower.
func (a *aggregator) Reset() {}

// CaughtUp implements bus.Follower.
func (a *aggregator) CaughtUp() { close(a.caughtUp) }

// Entry implements bus.Follower.
func (a *aggregator) Entry(entry bus.Entry) {
	id, dep, err := wire.ParseDeploymentKey(entry.Key)
	if err != nil {
		a.poison = err
		return
	}
	state, err := wire.DecodeDeviceState(entry.Value)
	if err != nil {
		a.poison = err
		return
	}
	a.mu.Lock()
	a.fleet.ObserveState(id, dep, &state, entry.At)
	a.mu.Unlock()
}

// aggregate follows the bucket into a fleet, until the counters are complete.
func aggregate(ctx context.Context, p *broker.Process, devices int) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := bus.Connect(ctx, bus.Options{NATS: p.NATS(), Credentials: p.Operator(), Name: "bench", Log: logr.Discard(), FailFast: true})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	a := &aggregator{caughtUp: make(chan struct{})}
	a.fleet, _ = newFleet(devices)
	ended := make(chan error, 1)
	runtime.GC() // of what making the fleet left behind
	begin := time.Now()
	go func() { ended <- conn.Follow(ctx, wire.DeviceStates, a) }()
	select {
	case <-a.caughtUp:
	case err := <-ended:
		return 0, err
	}
	took := time.Since(begin)
	cancel()
	<-ended //nolint:errcheck // it was cancelled
	if a.poison != nil {
		return 0, a.poison
	}
	return took, allSucceeded(a.fleet, devices)
}

// allSucceeded checks that nothing was lost on the way.
func allSucceeded(f *fleet.Fleet, devices int) error {
	succeeded := 0
	for _, patch := range f.TakeStatus(time.Now(), deployments) {
		a := patch.Status.Aggregate
		if a.Succeeded != a.MatchedDeviceCount {
			return fmt.Errorf("%s: %d of %d succeeded", patch.ID, a.Succeeded, a.MatchedDeviceCount)
		}
		succeeded += int(a.Succeeded)
	}
	if succeeded < devices {
		return errors.New("not every device is counted")
	}
	return nil
}
