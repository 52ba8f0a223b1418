package stories

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

// machine is this host as a device: podman, the agent, and a registry with the
// image that it is to run; and a person's kubectl-fleet. It is outside the cluster.
type machine struct {
	dir      string
	podman   *podman.Service
	registry *registry.Registry
	agent    *process.Process // nil until it runs
	env      []string         // of the person
}

// newMachine has podman and no agent that runs. Whatever happens, stop it.
func newMachine(ctx context.Context, c *cluster.Cluster) (m *machine, err error) {
	m = &machine{env: []string{"KUBECONFIG=" + c.Kubeconfig()}}
	if m.dir, err = os.MkdirTemp("", "fleet-story-"); err != nil {
		return m, fmt.Errorf("making a folder for a device: %w", err)
	}
	if err := programs.Build(ctx, m.dir, version.Tag, programs.Kubectl, programs.Agent); err != nil {
		return m, err
	}
	if m.registry, err = registry.Start(); err != nil {
		return m, err
	}
	for _, tag := range []string{"v1", "v2"} {
		image, err := images.Hello(tag)
		if err != nil {
			return m, err
		}
		if err := m.registry.Push("hello:"+tag, image); err != nil {
			return m, err
		}
	}
	if m.podman, err = podman.Start(ctx, podman.Options{Name: "story", Progress: c.Progress()}); err != nil {
		return m, err
	}
	own := fmt.Sprintf("[agent]\nstate_dir = %q\n[podman]\nsocket = %q\npoll_interval = \"1s\"\n[labels]\ngroup = \"a\"\n",
		m.path("state"), m.podman.Socket())
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
	var errs []error
	if m.podman != nil {
		errs = append(errs, m.podman.Stop())
	}
	if m.registry != nil {
		errs = append(errs, m.registry.Stop())
	}
	return errors.Join(append(errs, os.RemoveAll(m.dir))...)
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

// fleet is `kubectl fleet` as a person runs it.
func (m *machine) fleet(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, m.path("kubectl-fleet"), args...)
	cmd.Env = append(os.Environ(), m.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl fleet %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
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
	m.agent, err = process.Start(process.Spec{
		Path: m.path("fleet-agent"), Args: []string{"--config", m.path("config.toml")}, Log: m.path("agent.log"), Env: env,
	})
	return err
}

// containers are the ids of what it runs, one in each line; of which Deployments may
// be said.
func (m *machine) containers(ctx context.Context, of ...string) (string, error) {
	args := []string{"ps", "--quiet", "--no-trunc"}
	for _, name := range of {
		args = append(args, "--filter=name="+name)
	}
	ids, err := m.podman.Run(ctx, args...)
	return strings.TrimSpace(ids), err
}
