// Package agent assembles the agent of one device: the workloads, which start
// from the disk at once, and beside them the broker, the secrets, the device's
// description, the commands and the report for `fleet-agent status`. No broker,
// OpenBao or podman that is missing keeps it from starting.
//
// The package decides nothing: agent/reconcile does.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/agent/bus"
	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/secret"
	"github.com/nationtech/harmony-fleet/agent/status"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/agent/supervisor"
	"github.com/nationtech/harmony-fleet/agent/token"
	"github.com/nationtech/harmony-fleet/agent/workload"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Options of Run that no configuration file has.
type Options struct {
	// Version of the agent, as it is built.
	Version string
	Log     logr.Logger
}

// agent is what the parts share.
type agent struct {
	Options
	cfg     v1alpha1.AgentConfig
	device  wire.DeviceID
	session string
	started time.Time
	// news is sent to when the device has to be described anew.
	news    chan struct{}
	podman  *podman.Client
	store   *store.Store
	manager *workload.Manager
	secrets *secret.Keeper
	bus     *bus.Bus
	above   supervisor.Supervisor

	mu     sync.Mutex
	broker store.BrokerReport // with mu
	// refused is why what the broker offers is not taken over; with mu.
	refused string
	// twin is who else is live with this device id; with mu.
	twin string
}

// Run is the agent. It returns when ctx ends, which leaves the containers
// running, and before that only with an error that needs a person: a state
// directory that cannot be used, or that another agent uses.
func Run(ctx context.Context, cfg v1alpha1.AgentConfig, options Options) error {
	files, err := store.Open(cfg.Agent.StateDir)
	if err != nil {
		return err
	}
	claim, err := status.Claim(cfg.Agent.StateDir)
	if err != nil {
		return err
	}
	defer func() { _ = claim.Close() }() // the lock goes with it
	a := &agent{
		Options: options, cfg: cfg,
		device:  wire.DeviceID(cfg.Agent.DeviceID),
		session: newSession(),
		started: time.Now(),
		news:    make(chan struct{}, 1),
		podman:  podman.New(cfg.Podman.Socket),
		store:   files,
		above:   supervisor.New(options.Log.WithName("supervisor")),
	}
	a.broker.Since = a.started
	if err := a.assemble(); err != nil {
		return err
	}
	a.Log.Info("agent started", "device", a.device, "version", a.Version,
		"generation", a.manager.Desired().Generation, "deployments", len(a.manager.Desired().Deployments))
	return a.work(ctx)
}

// assemble makes the two halves, which know each other through functions alone.
func (a *agent) assemble() error {
	target := Target(a.cfg, a.Log)
	if err := a.keepSecrets(target); err != nil {
		return err
	}
	options := workload.Options{
		Device: a.device, Podman: a.podman, Store: a.store, Secrets: a.secrets,
		PollInterval: time.Duration(a.cfg.Podman.PollInterval),
		Pulls: reconcile.Pulls{
			Window: time.Duration(a.cfg.Podman.PullJitter), MinFree: int64(a.cfg.Podman.MinFreeSpace),
		},
		ImageRetention: time.Duration(a.cfg.Podman.ImageRetention),
		Log:            a.Log.WithName("workload"),
		Report:         a.putState,
		Held:           a.changed,
		Alive:          a.above.Alive,
		Pulse:          a.above.Pulse(),
	}
	manager, err := workload.New(options)
	if err != nil {
		// The store put the damaged file aside: nothing is known now, which
		// removes nothing, and the broker knows it all.
		a.Log.Error(err, "desired state not read from the disk, waiting for the broker's")
		if manager, err = workload.New(options); err != nil {
			return fmt.Errorf("reading the desired state from the disk: %w", err)
		}
	}
	a.manager = manager
	a.bus = bus.New(bus.Options{
		Target:     target,
		Session:    a.session,
		Workloads:  a.manager,
		Commands:   map[wire.Verb]bus.Handler{wire.VerbPing: a.ping, wire.VerbLogs: a.logs},
		Connection: a.connection,
		Refused:    a.refuse,
		Twin:       a.meet,
		Now:        time.Now,
		Log:        a.Log.WithName("bus"),
	})
	return nil
}

// keepSecrets makes what reads secrets, with the tokens that the broker is shown.
func (a *agent) keepSecrets(target bus.Target) (err error) {
	options := secret.Options{Device: a.device, Config: a.cfg.OpenBao, Podman: a.podman, Store: a.store, Log: a.Log.WithName("secret")}
	if target.Tokens != nil {
		options.Tokens = target.Tokens
	}
	a.secrets, err = secret.New(options)
	return err
}

// work runs the parts until ctx ends or the workloads cannot be run.
func (a *agent) work(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	a.above.Ready()
	parts.Go(func() {
		<-ctx.Done()
		a.above.Stopping()
	})
	parts.Go(func() { a.bus.Run(ctx) })
	parts.Go(func() { a.secrets.Run(ctx) })
	parts.Go(func() { a.describe(ctx) })
	parts.Go(func() { a.report(ctx) })
	return a.manager.Run(ctx)
}

// Target is the broker of a configuration, and the device to be there.
func Target(cfg v1alpha1.AgentConfig, log logr.Logger) bus.Target {
	target := bus.Target{Device: wire.DeviceID(cfg.Agent.DeviceID), NATS: cfg.NATS, Credentials: cfg.Credentials, TrustedKeys: cfg.Agent.TrustedKeys}
	if cfg.Credentials.FromProvider() {
		target.Tokens = token.New(token.Options{Credentials: cfg.Credentials, Now: time.Now, Log: log.WithName("token")})
	}
	return target
}

// putState passes a state on to the broker.
func (a *agent) putState(id wire.DeploymentID, state *wire.DeviceState) {
	if err := a.bus.PutState(id, state); err != nil {
		a.Log.Error(err, "state not reported", "deployment", id.String())
	}
}

// changed has the device described anew, with its hold or without.
func (a *agent) changed(*hold.Hold) {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// connection remembers how the broker does, for the report.
func (a *agent) connection(server string, problem error) {
	next := store.BrokerReport{Connected: server != "", Since: time.Now()}
	said := "connected to " + server
	if problem != nil {
		next.Error = problem.Error()
		said = "not connected: " + wire.CleanText(next.Error, wire.MaxMessage)
	}
	a.above.Status(fmt.Sprintf("device %s, %s", a.device, said))
	a.mu.Lock()
	defer a.mu.Unlock()
	if next.Connected == a.broker.Connected {
		next.Since = a.broker.Since
	}
	a.broker = next
}

// refuse remembers why what the broker offers is not taken over, for the report.
func (a *agent) refuse(problem error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused = ""; problem != nil {
		a.refused = problem.Error()
	}
}

// meet remembers who else is live with this device id, for the report.
func (a *agent) meet(problem error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.twin = ""; problem != nil {
		a.twin = problem.Error()
	}
}

// newSession is 8 random hex digits.
func newSession() string {
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	return hex.EncodeToString(random[:])
}
