package broker

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// Process is a nats-server in a process of its own, which the kernel kills when
// this one dies.
type Process struct {
	*base
	program string
	process *process.Process
}

// StartProcess starts a broker in a process of its own and creates its streams.
// It builds the program first when the cache lacks it; the working directory
// must then be inside the source tree.
func StartProcess(ctx context.Context, options Options) (*Process, error) {
	program, err := buildProgram(ctx)
	if err != nil {
		return nil, err
	}
	base, err := newBase(options)
	if err != nil {
		return nil, err
	}
	p := &Process{base: base, program: program}
	if err := p.run(ctx); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *Process) run(ctx context.Context) error {
	var err error
	p.process, err = process.Start(process.Spec{
		Path: p.program,
		Args: []string{p.configFile()},
		Log:  filepath.Join(p.Dir(), "output.log"),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return p.process.WaitReady(ctx, p.provision)
}

// PID is the process id of the broker.
func (p *Process) PID() int { return p.process.PID() }

// AddDevice lets another device connect. Connections stay.
func (p *Process) AddDevice(ctx context.Context, id wire.DeviceID) error {
	return p.admit(ctx, id, func() error { return syscall.Kill(p.PID(), syscall.SIGHUP) })
}

// Kill ends the broker with SIGKILL and returns when it is gone. The store stays.
func (p *Process) Kill() { p.process.Stop(0) }

// Restart starts the broker again on the same port and store, after stopping it
// when it runs.
func (p *Process) Restart(ctx context.Context) error {
	p.process.Stop(10 * time.Second)
	return p.run(ctx)
}

// Stop stops the broker and removes the folder that it made for itself.
func (p *Process) Stop() {
	if p.process != nil {
		p.process.Stop(10 * time.Second)
	}
	_ = p.removeDir() // a temporary folder
}

//go:embed cmd/fleet-broker/main.go
var programSource []byte

// buildProgram builds the command below this folder, once per version.
func buildProgram(ctx context.Context) (string, error) {
	key := fmt.Sprintf("fleet-broker-%s-%.4x", server.VERSION, sha256.Sum256(programSource))
	dir, err := tools.Cached(ctx, key, func(dir string) error {
		return programs.Build(ctx, dir, "", programs.Broker)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "fleet-broker"), nil
}
