package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/nkeys"
	"github.com/pelletier/go-toml/v2"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/release/compile"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

const (
	agentDevice    = wire.DeviceID("bench")
	containers     = 20
	startAllWithin = 5 * time.Minute
)

// device is a real agent beside a real podman, logged in as a device does that joined:
// with a key of its own, through TLS and the callout.
type device struct {
	dir       string
	broker    *broker.Process
	gauge     *gauge
	podman    *podman.Service
	stopwatch *stopwatch
	registry  *registry.Registry
	agent     *process.Process
	started   account // when the agent was
	operator  *bus.Conn
	stops     []func() error

	// What the device shall run.
	generation uint64
	entries    map[string]wire.ManifestEntry
}

// newDevice has an agent that runs nothing yet. The program is the one of the packages.
func (b *bench) newDevice(ctx context.Context, root string) (_ *device, err error) {
	d := &device{dir: b.dir, entries: map[string]wire.ManifestEntry{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	if err := d.startBroker(ctx); err != nil {
		return nil, err
	}
	if d.podman, err = podman.Start(ctx, podman.Options{Name: "bench"}); err != nil {
		return nil, err
	}
	d.stops = append(d.stops, d.podman.Stop)
	if d.stopwatch, err = newStopwatch(d.dir, d.podman.Socket()); err != nil {
		return nil, err
	}
	d.stops = append(d.stops, d.stopwatch.stop)
	if err := d.fillRegistry(); err != nil {
		return nil, err
	}
	program := compile.Build{
		Root: root, Programs: []compile.Program{compile.Program(programs.Agent)}, Architecture: runtime.GOARCH, Dir: d.dir, Progress: b.out,
	}
	if err := program.Run(ctx); err != nil {
		return nil, err
	}
	return d, d.startAgent()
}

func (d *device) stop() error {
	var errs []error
	for i := range d.stops {
		errs = append(errs, d.stops[len(d.stops)-1-i]())
	}
	return errors.Join(errs...)
}

// startBroker runs it with a callout that finds the device's policy in OpenBao.
func (d *device) startBroker(ctx context.Context) (err error) {
	s, err := newSite(ctx, d.dir, 0)
	if err != nil {
		return err
	}
	d.stops = append(d.stops, func() error { s.Stop(); return nil })
	if d.broker, err = broker.StartProcess(ctx, broker.Options{Callout: true, TLS: true, SyncAlways: true}); err != nil {
		return err
	}
	d.stops = append(d.stops, func() error { d.broker.Stop(); return nil })
	callout, err := s.startCallout(ctx, d.broker.Callout())
	if err != nil {
		return err
	}
	d.stops = append(d.stops, func() error { callout.Stop(10 * time.Second); return nil })
	key, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	public, err := key.PublicKey()
	if err != nil {
		return err
	}
	seed, err := key.Seed()
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("device.seed"), seed, 0o600); err != nil {
		return fmt.Errorf("writing the device's key: %w", err)
	}
	if err := s.Bao.PutPolicy(ctx, agentDevice, policy.Policy{NKey: public}); err != nil {
		return err
	}
	if d.gauge, err = newGauge(ctx, strings.TrimPrefix(d.broker.URL(), "tls://")); err != nil {
		return err
	}
	d.stops = append(d.stops, func() error { d.gauge.stop(); return nil })
	d.operator, err = bus.Connect(ctx, bus.Options{NATS: d.broker.NATS(), Credentials: d.broker.Operator(), Name: "bench", Log: logr.Discard(), FailFast: true})
	if err != nil {
		return err
	}
	d.stops = append(d.stops, func() error { d.operator.Close(); return nil })
	return nil
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

// hello is the image that the device runs.
const hello = "hello:1"

func (d *device) fillRegistry() (err error) {
	if d.registry, err = registry.Start(); err != nil {
		return err
	}
	d.stops = append(d.stops, d.registry.Stop)
	image, err := images.Hello("1")
	if err != nil {
		return err
	}
	return d.registry.Push(hello, image)
}

func (d *device) startAgent() error {
	c := config.AgentDefaults()
	c.Agent.DeviceID, c.Agent.StateDir = string(agentDevice), d.path("agent")
	c.Agent.TrustedKeys = d.broker.TrustedKeys()
	c.NATS = d.broker.NATS()
	c.NATS.URLs = []string{"tls://" + d.gauge.address()}
	c.Credentials = config.Credentials{Type: config.CredentialNKey, SeedFile: d.path("device.seed")}
	c.Podman.Socket = d.stopwatch.socket()
	file, err := toml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encoding the agent's configuration: %w", err)
	}
	if err := os.WriteFile(d.path("agent.toml"), file, 0o600); err != nil {
		return fmt.Errorf("writing the agent's configuration: %w", err)
	}
	d.started.at = time.Now()
	// The unit of the packages sets this too.
	d.agent, err = process.Start(process.Spec{
		Path: d.path("fleet-agent"), Args: []string{"run", "--config", d.path("agent.toml")}, Log: d.path("agent.log"), Env: []string{"GOMEMLIMIT=96MiB"},
	})
	if err == nil {
		d.stops = append(d.stops, func() error { d.agent.Stop(10 * time.Second); return nil })
	}
	return err
}

// run has the device run one more Deployment, or another version of one. A version is
// what its container's environment has.
func (d *device) run(ctx context.Context, deployment, version int) error {
	id := wire.DeploymentID{Namespace: "bench", Name: fmt.Sprintf("app-%02d", deployment)}
	canonical, err := score.Encode(score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{{
		Name: "web", Image: d.registry.Ref(hello), Env: []score.EnvVar{{Name: "VERSION", Value: fmt.Sprint(version)}},
	}}}})
	if err != nil {
		return err
	}
	d.entries[id.Token()] = wire.ManifestEntry{Revision: int64(version), Digest: score.DigestOf(canonical)}
	d.generation++
	manifest, err := d.broker.Manifest(agentDevice, d.generation, d.entries)
	if err != nil {
		return err
	}
	_, err = d.operator.Write(ctx, [][]bus.Message{{
		{Key: wire.DeploymentKey(agentDevice, id), Value: canonical}, {Key: wire.DeviceKey(agentDevice), Value: manifest},
	}})
	return err
}

// runAll has the device run containers and returns when all of them do.
func (d *device) runAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startAllWithin, fmt.Errorf("%d containers did not run after %s", containers, startAllWithin))
	defer cancel()
	for i := range containers {
		if err := d.run(ctx, i, 0); err != nil {
			return err
		}
	}
	for range containers {
		if _, err := d.stopwatch.await(ctx); err != nil {
			return d.explain(ctx, err)
		}
	}
	for {
		n, last, err := d.succeeded(ctx)
		if err != nil || n == containers {
			return err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return fmt.Errorf("%w: %d run; the last of the others: %s", err, n, last)
		}
	}
}

// explain adds what the device reports to an error.
func (d *device) explain(ctx context.Context, problem error) error {
	n, last, err := d.succeeded(context.WithoutCancel(ctx))
	return fmt.Errorf("%w: %d run; the last of the others: %s", errors.Join(problem, d.agent.Failure(), err), n, last)
}

// succeeded counts the Deployments that the device reports as succeeded; last is
// what it says of one that is not.
func (d *device) succeeded(ctx context.Context) (n int, last string, err error) {
	entries, err := d.operator.List(ctx, wire.DeviceStates, string(agentDevice)+".>")
	if err != nil {
		return 0, "", err
	}
	for _, e := range entries {
		state, err := wire.DecodeDeviceState(e.Value)
		if err != nil {
			return 0, "", err
		}
		if state.Phase == wire.PhaseSucceeded {
			n++
		} else {
			last = fmt.Sprintf("%s %s: %s", e.Key, state.Reason, state.Message)
		}
	}
	return n, last, nil
}
