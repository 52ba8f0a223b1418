package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/registry"
	"github.com/nationtech/harmony-fleet/smoke/steps"
)

// device is one device of the demo: a podman service and an agent.
type device struct {
	id     wire.DeviceID
	labels map[string]string
	podman *podman.Service
}

// environment is everything that runs for a demo.
type environment struct {
	options Options
	out     io.Writer
	dir     string

	kubeconfig string
	broker     *broker.Broker
	auth       *authority // nil without Options.Auth
	registry   *registry.Registry
	devices    []*device
	hostPort   int // of this machine, free for the first device to publish
	// programs are the product's own, by the name of their log.
	programs map[string]*process.Process
	// stops take down what has been started, to be run from the last to the first.
	stops []stop
}

type stop struct {
	what string
	run  func() error
}

// readyTimeout bounds the wait for one program, on a busy machine.
const readyTimeout = time.Minute

func newEnvironment(options Options) (*environment, error) {
	e := &environment{options: options, out: options.Out, dir: options.Dir, programs: map[string]*process.Process{}}
	e.devices = []*device{
		{id: "device-a", labels: map[string]string{"group": "a", "site": "x"}},
		{id: "device-b", labels: map[string]string{"group": "b", "site": "x"}},
	}
	if options.Auth {
		e.devices[1].labels[overreach] = "gold"
	}
	if e.dir == "" {
		var err error
		if e.dir, err = os.MkdirTemp("", "fleet-demo-"); err != nil {
			return nil, fmt.Errorf("making a folder for the demo: %w", err)
		}
		e.onStop("removing "+e.dir, func() error { return os.RemoveAll(e.dir) })
	} else if left, err := os.ReadDir(e.dir); err == nil && len(left) > 0 {
		return nil, fmt.Errorf("the folder %s is not empty; what an older demo left there would mix with this one", e.dir)
	}
	for _, folder := range []string{"bin", "log", "broker", "auth"} {
		if err := os.MkdirAll(e.path(folder), 0o700); err != nil {
			return nil, errors.Join(fmt.Errorf("making a folder for the demo: %w", err), e.stop())
		}
	}
	return e, nil
}

func (e *environment) path(parts ...string) string {
	return filepath.Join(append([]string{e.dir}, parts...)...)
}

func (e *environment) onStop(what string, run func() error) {
	e.stops = append(e.stops, stop{what, run})
}

// startStep is one step of the start.
type startStep struct {
	what string
	run  func(context.Context) error
}

// start brings everything up in the order in which it depends on each other.
func (e *environment) start(ctx context.Context) error {
	order := []startStep{
		{"making sure that podman is installed", func(ctx context.Context) error { return podman.EnsureInstalled(ctx, e.out) }},
		{"bringing a cluster up (the first time it is built from source, which takes minutes)", e.startCluster},
		{"building the nats command line, and kubectl (a minute the first time)", e.buildTools},
		{"building the product's programs from this tree", e.buildPrograms},
		{"starting the broker", e.startBroker},
	}
	if e.options.Auth {
		order = append(order, startStep{"starting an OpenID provider, OpenBao (the first time it is built from source, which takes minutes) and two replicas of fleet-callout", e.startAuth})
	}
	order = append(order, []startStep{
		{"starting a registry with the images hello:v1 and hello:v2", e.startRegistry},
		{"starting the operator", e.startOperator},
		{"starting device-a and device-b", e.startDevices},
	}...)
	for _, s := range order {
		if err := steps.Run(e.out, s.what, func() error { return s.run(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// stop takes everything down, the last first, and goes on when a part fails.
func (e *environment) stop() error {
	var errs []error
	for _, s := range slices.Backward(e.stops) {
		if err := s.run(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.what, err))
		}
	}
	e.stops = nil
	return errors.Join(errs...)
}

func (e *environment) startBroker(ctx context.Context) error {
	options := broker.Options{Dir: e.path("broker"), Callout: e.options.Auth}
	if !e.options.Auth {
		for _, d := range e.devices {
			options.Devices = append(options.Devices, d.id)
		}
	}
	b, err := broker.Start(ctx, options)
	if err != nil {
		return err
	}
	e.broker = b
	e.onStop("stopping the broker", func() error { b.Stop(); return nil })
	return nil
}

func (e *environment) startRegistry(context.Context) error {
	r, err := registry.Start()
	if err != nil {
		return err
	}
	e.registry = r
	e.onStop("stopping the registry", r.Stop)
	for _, version := range []string{"v1", "v2"} {
		image, err := images.Hello(version) //nolint:contextcheck // it bounds its compilation itself
		if err != nil {
			return err
		}
		if err := r.Push("hello:"+version, image); err != nil {
			return err
		}
	}
	return nil
}

func (e *environment) startOperator(ctx context.Context) error {
	probes, err := process.FreePort()
	if err != nil {
		return err
	}
	config := v1alpha1.OperatorDefaults()
	config.NATS, config.Credentials, config.Signing = e.broker.NATS(), e.broker.Operator(), e.broker.Signing()
	config.LeaderElection.Enabled = false // it is alone, and starts at once
	config.MetricsAddress, config.ProbeAddress = "0", "127.0.0.1:"+strconv.Itoa(probes)
	if e.auth != nil {
		if config.OpenBao, err = e.auth.Bao.Program(ctx, config.OpenBao.LoginRole, e.path("auth")); err != nil {
			return err
		}
	}
	file := e.path("operator.yaml")
	if err := writeYAML(file, config); err != nil {
		return err
	}
	return e.run(ctx, program{
		name:  "fleet-operator",
		args:  []string{"--config", file, "--kubeconfig", e.kubeconfig},
		ready: func(ctx context.Context) error { return process.Answers(ctx, "http://"+config.ProbeAddress+"/readyz") },
	})
}

func (e *environment) startDevices(ctx context.Context) (err error) {
	for _, d := range e.devices {
		d.podman, err = podman.Start(ctx, podman.Options{Name: string(d.id), Progress: e.out})
		if err != nil {
			return err
		}
		e.onStop("removing the containers of "+string(d.id), d.podman.Stop)
		if err := os.Symlink(d.podman.CommandLine(), e.path("bin", "podman-"+string(d.id))); err != nil {
			return fmt.Errorf("linking the podman of %s: %w", d.id, err)
		}
		if err := e.startAgent(ctx, d); err != nil {
			return err
		}
	}
	e.hostPort, err = process.FreePort()
	return err
}

// agentDefaults is the configuration of an agent, but for how it logs in.
func (e *environment) agentDefaults(id wire.DeviceID) v1alpha1.AgentConfig {
	config := v1alpha1.AgentDefaults()
	config.Agent.DeviceID, config.Agent.StateDir = string(id), e.path(string(id))
	config.Agent.TrustedKeys = e.broker.TrustedKeys()
	config.NATS = e.broker.NATS()
	return config
}

func (e *environment) startAgent(ctx context.Context, d *device) (err error) {
	config := e.agentDefaults(d.id)
	if config.Credentials = e.broker.Device(d.id); e.auth != nil {
		if config.Credentials, err = e.enrol(ctx, d); err != nil {
			return err
		}
	}
	config.Labels = d.labels
	config.Podman.Socket = d.podman.Socket()
	config.Podman.PollInterval = v1alpha1.Duration(2 * time.Second)
	if err := writeTOML(e.agentConfig(d), config); err != nil {
		return err
	}
	return e.run(ctx, program{
		name: "fleet-agent", log: string(d.id),
		args: []string{"--config", e.agentConfig(d)},
		ready: func(ctx context.Context) error {
			_, err := e.fleet(ctx, "ping", string(d.id))
			return err
		},
	})
}

func (e *environment) agentConfig(d *device) string { return e.path(string(d.id) + ".toml") }

// program is one of the product's own, in the folder bin.
type program struct {
	name  string
	log   string // "" means the name
	args  []string
	ready func(context.Context) error
}

// run starts the program and returns when it is ready.
func (e *environment) run(ctx context.Context, p program) error {
	if p.log == "" {
		p.log = p.name
	}
	started, err := process.Start(process.Spec{Path: e.path("bin", p.name), Args: p.args, Log: e.logFile(p.log)})
	if err != nil {
		return err
	}
	e.programs[p.log] = started
	e.onStop("stopping "+p.log, func() error { started.Stop(10 * time.Second); return nil })
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return started.WaitReady(ctx, p.ready)
}

func (e *environment) logFile(name string) string { return e.path("log", name+".log") }

// logTails is the end of each program's log, for a person who must find out why
// something failed.
func (e *environment) logTails() string {
	var tails strings.Builder
	for name, p := range e.programs {
		fmt.Fprintf(&tails, "--- the last lines of %s\n%s\n", e.logFile(name), p.LogTail(25))
	}
	return tails.String()
}
