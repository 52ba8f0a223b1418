// Package simulated supplies devices without containers, hundreds of them in one
// process. What they say and hear is real: each has the connection that the product's
// agent has and proves who it is like any other, see agent/bus. What it shall run it
// says to run, at once.
package simulated

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/agent/bus"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Options of a Device.
type Options struct {
	bus.Target
	Labels map[string]string
	// Connection and Refused are told what those of bus.Options are; nil for nobody.
	Connection func(server string, problem error)
	Refused    func(problem error)
}

// Device is one of them. It implements device.Device.
type Device struct {
	options Options
	bus     *bus.Bus

	mu      sync.Mutex
	held    store.Desired                  // with mu
	runs    map[wire.DeploymentID]workload // with mu
	started int                            // with mu; workloads so far
	away    error                          // with mu; why it is not connected
	refusal error                          // with mu; why it does not take over what it is offered
}

// workload stands for the containers of a Deployment.
type workload struct {
	digest score.Digest
	number int // of those that this device has started
}

// New makes a device that has not connected yet and may: its policy is there, and it
// has joined.
func New(o Options) (*Device, error) {
	d := &Device{options: o, runs: map[wire.DeploymentID]workload{}, away: errors.New("it has not connected yet")}
	d.bus = bus.New(bus.Options{
		Target: o.Target, Session: session(), Workloads: d,
		Connection: d.connection, Refused: d.refused, Twin: func(error) {},
		Now: time.Now, Log: logr.Discard(),
	})
	return d, d.bus.PutInfo(wire.DeviceInfo{Labels: o.Labels})
}

func session() string {
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	return hex.EncodeToString(random[:])
}

// Run is its life. It returns when ctx ends.
func (d *Device) Run(ctx context.Context) { d.bus.Run(ctx) }

// Running implements device.Device.
func (d *Device) Running(_ context.Context, of ...string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var lines []string
	for id, w := range d.runs {
		if len(of) == 0 || slices.Contains(of, id.Name) {
			lines = append(lines, fmt.Sprintf("%s %s %d", d.options.Device, id, w.number))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

// Log implements device.Device: what troubles the device.
func (d *Device) Log(context.Context) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var lines []string
	for _, problem := range []error{d.away, d.refusal} {
		if problem != nil {
			lines = append(lines, fmt.Sprintf("%s: %v", d.options.Device, problem))
		}
	}
	return strings.Join(lines, "\n")
}

func (d *Device) connection(server string, problem error) {
	d.mu.Lock()
	d.away = problem
	d.mu.Unlock()
	if d.options.Connection != nil {
		d.options.Connection(server, problem)
	}
}

func (d *Device) refused(problem error) {
	d.mu.Lock()
	d.refusal = problem
	d.mu.Unlock()
	if d.options.Refused != nil {
		d.options.Refused(problem)
	}
}

// Desired implements bus.Workloads.
func (d *Device) Desired() store.Desired {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held
}

// Apply implements bus.Workloads.
func (d *Device) Apply(desired store.Desired) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.runs {
		if _, stays := desired.Deployments[id]; stays {
			continue
		}
		if err := d.bus.PutState(id, nil); err != nil {
			return err
		}
		delete(d.runs, id)
	}
	for id, wanted := range desired.Deployments {
		if now, runs := d.runs[id]; runs && now.digest == wanted.Digest {
			continue
		}
		state := wire.DeviceState{Phase: wire.PhaseSucceeded, Reason: "Running", Digest: wanted.Digest}
		if err := d.bus.PutState(id, &state); err != nil {
			return err
		}
		d.started++
		d.runs[id] = workload{digest: wanted.Digest, number: d.started}
	}
	d.held = desired
	return nil
}
