package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"github.com/pelletier/go-toml/v2"
	"github.com/prometheus/procfs"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

const (
	agentDevice = wire.DeviceID("bench")
	containers  = 20
	// idle is how long nothing happens before a process is measured: longer
	// than the runtime takes to give memory back.
	idle           = 20 * time.Second
	startAllWithin = 5 * time.Minute
)

// device is a real agent beside a real podman.
type device struct {
	broker *broker.Process
	podman *podman.Service
	agent  *process.Process
}

// agent measures the resident memory of the agent, without and with containers,
// and of the podman service beside it.
func (b *bench) agent(ctx context.Context) (err error) {
	d := &device{}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.start(ctx, b.dir); err != nil {
		return err
	}
	agentIdle, podmanIdle, err := d.memory(ctx)
	if err != nil {
		return err
	}
	if err := d.runContainers(ctx); err != nil {
		return err
	}
	agentBusy, podmanBusy, err := d.memory(ctx)
	if err != nil {
		return err
	}
	with := fmt.Sprintf(", %d containers", containers)
	b.add(row{what: "agent, no containers: resident", unit: "MiB", values: agentIdle, atMost: 20})
	b.add(row{what: "agent" + with + ": resident", unit: "MiB", values: agentBusy})
	b.add(row{what: "podman system service, no containers: resident", unit: "MiB", values: podmanIdle})
	b.add(row{what: "podman system service" + with + ": resident", unit: "MiB", values: podmanBusy})
	b.add(row{what: "agent over podman system service, no containers", values: ratio(agentIdle, podmanIdle), atMost: 1})
	b.add(row{what: "agent over podman system service" + with, values: ratio(agentBusy, podmanBusy), atMost: 1})
	return nil
}

func (d *device) start(ctx context.Context, dir string) (err error) {
	if d.broker, err = broker.StartProcess(ctx, broker.Options{Devices: []wire.DeviceID{agentDevice}}); err != nil {
		return err
	}
	if d.podman, err = podman.Start(ctx, podman.Options{Name: "bench"}); err != nil {
		return err
	}
	if err := programs.Build(ctx, dir, "", programs.Agent); err != nil {
		return err
	}
	c := config.AgentDefaults()
	c.Agent.DeviceID, c.Agent.StateDir = string(agentDevice), filepath.Join(dir, "agent")
	c.Agent.TrustedKeys = d.broker.TrustedKeys()
	c.NATS, c.Credentials = d.broker.NATS(), d.broker.Device(agentDevice)
	c.Podman.Socket = d.podman.Socket()
	file, err := toml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encoding the agent's configuration: %w", err)
	}
	path := filepath.Join(dir, "agent.toml")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		return fmt.Errorf("writing the agent's configuration: %w", err)
	}
	d.agent, err = process.Start(process.Spec{
		Path: filepath.Join(dir, "fleet-agent"), Args: []string{"run", "--config", path}, Log: filepath.Join(dir, "agent.log"),
	})
	return err
}

func (d *device) stop() error {
	if d.agent != nil {
		d.agent.Stop(10 * time.Second)
	}
	if d.broker != nil {
		d.broker.Stop()
	}
	if d.podman != nil {
		return d.podman.Stop()
	}
	return nil
}

// memory is the resident memory of agent and podman service in MiB, once a
// second after nothing has happened for a while.
func (d *device) memory(ctx context.Context) (agent, service series, err error) {
	wait := idle
	for range rounds {
		select {
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = time.Second
		if err := d.agent.Failure(); err != nil {
			return nil, nil, err
		}
		for pid, to := range map[int]*series{d.agent.PID(): &agent, d.podman.PID(): &service} {
			p, err := procfs.NewProc(pid)
			if err != nil {
				return nil, nil, err
			}
			status, err := p.NewStatus()
			if err != nil {
				return nil, nil, err
			}
			*to = append(*to, float64(status.VmRSS)/(1<<20))
		}
	}
	return agent, service, nil
}

// runContainers has the agent run containers and returns when all of them do.
func (d *device) runContainers(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startAllWithin, fmt.Errorf("%d containers did not run after %s", containers, startAllWithin))
	defer cancel()
	reg, err := registry.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Stop()) }()
	image, err := images.Hello("1")
	if err != nil {
		return err
	}
	const imageName = "hello:1"
	if err := reg.Push(imageName, image); err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, bus.Options{NATS: d.broker.NATS(), Credentials: d.broker.Operator(), Name: "bench", Log: logr.Discard(), FailFast: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	unit, err := d.desired(reg.Ref(imageName))
	if err != nil {
		return err
	}
	if _, err := conn.Write(ctx, [][]bus.Message{unit}); err != nil {
		return err
	}
	for {
		n, last, err := succeeded(ctx, conn)
		if err != nil || n == containers {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %d run; the last of the others: %s", context.Cause(ctx), n, last)
		case <-time.After(time.Second):
		}
	}
}

// desired is the desired state of the device: one container per Deployment.
func (d *device) desired(image string) ([]bus.Message, error) {
	var unit []bus.Message
	entries := map[string]wire.ManifestEntry{}
	for i := range containers {
		id := wire.DeploymentID{Namespace: "bench", Name: fmt.Sprintf("app-%02d", i)}
		canonical, err := score.Encode(score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{{Name: "web", Image: image}}}})
		if err != nil {
			return nil, err
		}
		entries[id.Token()] = wire.ManifestEntry{Revision: 1, Digest: score.DigestOf(canonical)}
		unit = append(unit, bus.Message{Key: wire.DeploymentKey(agentDevice, id), Value: canonical})
	}
	manifest, err := d.broker.Manifest(agentDevice, 1, entries)
	return append(unit, bus.Message{Key: wire.DeviceKey(agentDevice), Value: manifest}), err
}

// succeeded counts the Deployments that the device reports as succeeded; last is
// what it says of one that is not.
func succeeded(ctx context.Context, conn *bus.Conn) (n int, last string, err error) {
	entries, err := conn.List(ctx, wire.DeviceStates, string(agentDevice)+".>")
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
