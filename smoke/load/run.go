// Package load is the scale proof: it runs the real operator against a real
// kube-apiserver, etcd and nats-server, stands for the agents of a whole fleet,
// and in the end compares every aggregate and every key of the desired state
// with a brute-force recount. It never touches a cluster that it has not
// started, and it takes nothing from the operator's own account of itself.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Options of a run; all but SyncAlways and Profile are needed.
type Options struct {
	Devices, Deployments int
	// Rate of state writes per second, and for how long.
	Rate     int
	Duration time.Duration
	// Seed of everything random.
	Seed uint64
	// Patches per second is the operator's budget.
	Patches int
	// SyncAlways has the broker sync each message to the disk.
	SyncAlways bool
	// SetupTimeout bounds the time until all devices and desired states are
	// there, and again the time until the statuses have settled.
	SetupTimeout time.Duration
	// Profile is a file that gets a CPU profile of the operator under the writes;
	// "" for none.
	Profile string
	// Out hears of progress and gets the report.
	Out io.Writer
}

// ErrWrong says that the run ended and its report names something wrong.
var ErrWrong = errors.New("the load run found something wrong")

// run is one run and what it has measured so far.
type run struct {
	Options
	plan    *plan
	stack   *stack
	sim     *simulator
	watcher *watcher
	begin   time.Time
	hushed  atomic.Pointer[time.Time] // when the silent devices fell silent
	report  report
}

// Run carries the load out. It fails with ErrWrong when it could measure
// everything and something was not as it should be.
func Run(ctx context.Context, o Options) (err error) {
	r := &run{Options: o, begin: time.Now()}
	r.report.Options = o
	r.say("seed %d", o.Seed)
	if r.plan, err = newPlan(o.Devices, o.Deployments); err != nil {
		return err
	}
	r.say("plan: %d devices, %d deployments, %d pairs of them that match", o.Devices, o.Deployments, len(r.plan.pairs))
	r.say("building the operator and starting etcd, kube-apiserver and nats-server")
	if r.stack, err = startStack(ctx, o); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stack.stop()) }()
	if r.sim, err = newSimulator(r.plan, o.Seed, r.stack.broker.NATS(), r.stack.broker.Simulator()); err != nil {
		return err
	}
	defer r.sim.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if r.watcher, err = watchStatuses(ctx, r.stack.client); err != nil {
		return err
	}
	if err := r.stack.startOperator(ctx, o); err != nil {
		return err
	}
	go func() {
		select {
		case <-r.stack.operator.Exited():
			cancel(r.stack.died())
		case <-ctx.Done():
		}
	}()
	for _, phase := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"apply", r.apply}, {"setup", r.setUp}, {"settle", r.settle}, {"heartbeats only", r.beatOnly},
		{"state writes", r.write}, {"settle again", r.settleAgain}, {"recount", r.recount},
	} {
		begin := time.Now()
		if err := phase.do(ctx); err != nil {
			return fmt.Errorf("phase %q, after %s: %w", phase.name, time.Since(begin).Round(time.Second), err)
		}
		r.report.phases = append(r.report.phases, phaseTime{phase.name, time.Since(begin)})
		r.say("%s done in %s", phase.name, time.Since(begin).Round(100*time.Millisecond))
	}
	return r.report.write(o.Out)
}

// say prints a line of progress.
func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.Out, "%7.1fs  %s\n", time.Since(r.begin).Seconds(), fmt.Sprintf(format, args...))
}

// apply creates the Deployments.
func (r *run) apply(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, d := range r.plan.deployments {
		group.Go(func() error { return r.stack.client.Create(ctx, d.resource()) })
	}
	return group.Wait()
}

// setUp introduces the devices and waits for their resources and desired state.
func (r *run) setUp(ctx context.Context) error {
	go r.sim.beatForever(ctx, func() bool { return r.hushed.Load() != nil })
	if err := r.sim.introduce(ctx); err != nil {
		return err
	}
	r.say("introduced %d devices", len(r.plan.devices))
	store, err := r.stack.openStore(ctx)
	if err != nil {
		return err
	}
	defer store.nc.Close()
	wantKeys := len(r.plan.pairs)
	for _, d := range r.plan.devices {
		if len(d.pairs) > 0 {
			wantKeys++
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.SetupTimeout, fmt.Errorf("not set up after %s", r.SetupTimeout))
	defer cancel()
	begin, said := time.Now(), time.Now()
	for {
		devices, err := r.devices(ctx)
		if err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		keys, err := store.keys(ctx)
		if err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		seconds := time.Since(begin).Seconds()
		done := devices == len(r.plan.devices) && keys >= wantKeys
		if done || time.Since(said) > 5*time.Second {
			said = time.Now()
			r.say("%d of %d devices (%.0f/s), %d of %d keys", devices, len(r.plan.devices), float64(devices)/seconds, keys, wantKeys)
		}
		if done {
			r.report.devicesPerSecond = float64(devices) / seconds
			return nil
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// devices counts the Device resources without reading them all.
func (r *run) devices(ctx context.Context) (int, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("DeviceList"))
	if err := r.stack.client.List(ctx, list, client.Limit(1)); err != nil {
		return 0, fmt.Errorf("counting Devices: %w", err)
	}
	n := len(list.Items)
	if rest := list.RemainingItemCount; rest != nil {
		n += int(*rest)
	}
	return n, nil
}

func (r *run) settle(ctx context.Context) error { return r.stack.quiet(ctx, r.SetupTimeout) }

// beatOnly sends nothing but heartbeats, and counts what the API server sees of
// it.
func (r *run) beatOnly(ctx context.Context) error {
	before, err := r.stack.apiWrites(ctx)
	if err != nil {
		return err
	}
	sent := r.sim.heartbeats.Load()
	if err := r.sim.beatAll(ctx, 10*time.Second, func() bool { return false }); err != nil {
		return err
	}
	if err := pause(ctx, 3*time.Second); err != nil { // for what they might cause
		return err
	}
	after, err := r.stack.apiWrites(ctx)
	r.report.heartbeats = int(r.sim.heartbeats.Load() - sent)
	r.report.heartbeatWrites = after.since(before).all()
	return err
}

// write is the phase that everything else is for.
func (r *run) write(ctx context.Context) error {
	before, err := r.measure(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	r.hushed.Store(&now)
	r.watcher.forget()
	probing, stopProbing := context.WithTimeout(ctx, r.Duration)
	defer stopProbing()
	probes := make(chan []time.Duration, 1)
	go func() { probes <- r.probeAll(probing) }()
	saying, stopSaying := context.WithCancel(ctx)
	defer stopSaying()
	go r.sayRate(saying)

	var profiling errgroup.Group
	if r.Profile != "" {
		profiling.Go(func() error { return r.stack.profile(ctx, r.Profile, max(1, int(r.Duration.Seconds()/2))) })
	}
	if err := errors.Join(r.sim.write(ctx, r.Rate, r.Duration), profiling.Wait()); err != nil {
		return err
	}
	stopSaying()
	after, err := r.measure(ctx)
	if err != nil {
		return err
	}
	if err := r.sim.settle(ctx); err != nil {
		return err
	}
	r.report.lastAck = time.Since(after.at)
	r.report.ages = <-probes
	r.report.measured(before, after)
	return nil
}

// measurement is what is counted before and after the writes.
type measurement struct {
	at     time.Time
	acked  int
	writes apiWrites
	usage  []usage
}

func (r *run) measure(ctx context.Context) (measurement, error) {
	m := measurement{at: time.Now(), acked: int(r.sim.sent.Load()-r.sim.repeated.Load()) - r.sim.unacknowledged()}
	var err error
	if m.usage, err = r.stack.usage(); err != nil {
		return m, err
	}
	m.writes, err = r.stack.apiWrites(ctx)
	return m, err
}

// sayRate prints how the writes go.
func (r *run) sayRate(ctx context.Context) {
	begin, before := time.Now(), r.sim.sent.Load()
	for pause(ctx, 10*time.Second) == nil {
		sent := r.sim.sent.Load() - before
		r.say("%d states written (%.0f/s), %d without an acknowledgement yet", sent, float64(sent)/time.Since(begin).Seconds(), r.sim.unacknowledged())
	}
}

// settleAgain waits until the silent devices must count as unreachable and the
// statuses do not move any more.
func (r *run) settleAgain(ctx context.Context) error {
	begin := time.Now()
	due := r.hushed.Load().Add(wire.HeartbeatTimeout + 5*time.Second)
	if err := pause(ctx, time.Until(due)); err != nil {
		return err
	}
	if err := r.stack.quiet(ctx, r.SetupTimeout); err != nil {
		return err
	}
	r.say("waited %s for the silent devices and the last statuses", time.Since(begin).Round(time.Second))
	var err error
	r.report.changes, err = r.watcher.count()
	return err
}

// recount compares everything with the truth.
func (r *run) recount(ctx context.Context) error {
	var err error
	if r.report.aggregates, err = r.stack.verifyAggregates(ctx, r.plan, r.sim.truths); err != nil {
		return err
	}
	if r.report.devices, err = r.stack.verifyDevices(ctx, r.plan); err != nil {
		return err
	}
	store, err := r.stack.openStore(ctx)
	if err != nil {
		return err
	}
	defer store.nc.Close()
	if r.report.desired, err = store.verify(ctx, r.plan); err != nil {
		return err
	}
	r.report.pairs = len(r.plan.pairs)
	r.report.repeated = int(r.sim.repeated.Load())
	r.report.errors, r.report.firstError = int(r.sim.errors.Load()), r.sim.firstError()
	r.report.final, err = r.stack.usage()
	return err
}

// pause waits; it fails with the cause when ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// probeAll measures until ctx ends how old a change is when it shows.
func (r *run) probeAll(ctx context.Context) []time.Duration {
	ages := make([][]time.Duration, len(r.plan.probes))
	var group errgroup.Group
	for i, n := range r.plan.probes {
		group.Go(func() (err error) {
			ages[i], err = r.probe(ctx, n)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		r.sim.failed(err)
	}
	return slices.Concat(ages...)
}
