package stories

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
)

// machine is this host as a device: podman and the agent, outside the cluster; and who
// has it.
type machine struct {
	*person
	state  string // the agent's
	podman *podman.Service
	agent  *process.Process // nil until it runs
	within []string         // what goes before the agent's command, if anything
}

// newMachine has podman and no agent that runs. Whatever happens, stop it.
func newMachine(ctx context.Context, c *cluster.Cluster) (*machine, error) {
	return newMachineOn(ctx, c, 0)
}

// newMachineOn has a disk of its own of so many bytes, for what podman and the agent
// store; 0 for none.
func newMachineOn(ctx context.Context, c *cluster.Cluster, disk int64) (m *machine, err error) {
	m = &machine{}
	if m.person, err = newPerson(ctx, c, runtime.GOARCH, programs.Agent); err != nil {
		return m, err
	}
	if m.podman, err = podman.Start(ctx, podman.Options{Name: "story", DiskBytes: disk, Progress: c.Progress()}); err != nil {
		return m, err
	}
	if m.state = m.path("state"); disk > 0 {
		m.state = filepath.Join(m.podman.Disk(), "state")
	}
	own := fmt.Sprintf("[agent]\nstate_dir = %q\n[podman]\nsocket = %q\npoll_interval = \"1s\"\n[labels]\ngroup = \"a\"\n",
		m.state, m.podman.Socket())
	if err := os.Mkdir(m.path("conf.d"), 0o700); err != nil {
		return m, err
	}
	return m, os.WriteFile(m.path("conf.d/own.toml"), []byte(own), 0o600)
}

// stop ends everything and removes it.
func (m *machine) stop() error {
	if m.agent != nil {
		m.agent.Stop(30 * time.Second)
	}
	var err error
	if m.podman != nil {
		err = m.podman.Stop()
	}
	return errors.Join(err, m.leave())
}

// enrol lets it in as the device pi-1 of group a, at the broker's address.
func (m *machine) enrol(ctx context.Context, url string) error {
	command, err := m.fleet(ctx, "enroll", "pi-1", "--label", "group=a", "--url", url)
	if err != nil {
		return err
	}
	return m.join(ctx, command)
}

// join runs the command that `kubectl fleet enroll` printed, and the agent then.
func (m *machine) join(ctx context.Context, command string) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Env = append(os.Environ(), "FLEET_AGENT_CONFIG="+m.path("config.toml"), "PATH="+m.dir+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("joining: %w: %s", err, bytes.TrimSpace(out))
	}
	return m.run()
}

// run starts the agent, which is configured, with more in its environment.
func (m *machine) run(env ...string) (err error) {
	command := append(slices.Clone(m.within), m.path("fleet-agent"), "--config", m.path("config.toml"))
	m.agent, err = process.Start(process.Spec{Path: command[0], Args: command[1:], Log: m.path("agent.log"), Env: env})
	return err
}

// Running implements device.Device.
func (m *machine) Running(ctx context.Context, of ...string) (string, error) {
	return containers(ctx, m.podman.Run, of)
}

// Agent runs a command of the agent's program.
func (m *machine) Agent(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, m.path("fleet-agent"), append(args, "--config", m.path("config.toml"))...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("fleet-agent %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), err
}

// Reach is the address itself.
func (m *machine) Reach(address string) string { return address }

// Port is any.
func (m *machine) Port() (port int, url string, err error) {
	port, err = process.FreePort()
	return port, fmt.Sprintf("http://127.0.0.1:%d", port), err
}

// Log is the end of what the agent wrote.
func (m *machine) Log(context.Context) string {
	if m.agent == nil {
		return "(it was never started)"
	}
	return m.agent.LogTail(30)
}
