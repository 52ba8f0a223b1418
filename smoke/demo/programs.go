package demo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"sigs.k8s.io/yaml"

	"github.com/nationtech/harmony-fleet/smoke/programs"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// buildTools puts nats and kubectl into the folder bin. Who has a cluster has a
// kubectl too; the one for our own control plane was built with it.
func (e *environment) buildTools(ctx context.Context) error {
	wanted := []tools.Tool{tools.NATS}
	if _, err := exec.LookPath(tools.Kubectl.String()); err != nil || e.options.Kubeconfig == "" {
		wanted = append(wanted, tools.Kubectl)
	}
	for _, tool := range wanted {
		path, err := tools.Build(ctx, tool, io.Discard)
		if err != nil {
			return err
		}
		if err := os.Symlink(path, e.path("bin", tool.String())); err != nil {
			return fmt.Errorf("linking %s: %w", tool, err)
		}
	}
	return nil
}

// buildPrograms builds the product into the folder bin.
func (e *environment) buildPrograms(ctx context.Context) error {
	wanted := []programs.Command{programs.Operator, programs.Kubectl, programs.Agent}
	if e.options.Auth {
		wanted = append(wanted, programs.Callout)
	}
	return programs.Build(ctx, e.path("bin"), "", wanted...)
}

// variables is the environment in which the commands of the menu work.
func (e *environment) variables() []string {
	admin := e.broker.Admin()
	all := []string{
		"KUBECONFIG=" + e.kubeconfig,
		"PATH=" + e.path("bin") + ":" + os.Getenv("PATH"),
		"FLEET_NATS_URL=" + e.broker.URL(), "FLEET_NATS_USER=" + admin.User, "FLEET_NATS_PASSWORD=" + admin.Password,
		"NATS_URL=" + e.broker.URL(), "NATS_USER=" + admin.User, "NATS_PASSWORD=" + admin.Password,
	}
	if e.auth != nil {
		all = append(all, "BAO_ADDR="+e.auth.Bao.Address(), "BAO_TOKEN="+e.auth.person)
	}
	return all
}

// shell runs a command of the menu as a person would, and returns all that it
// wrote.
func (e *environment) shell(ctx context.Context, command string) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Env = append(os.Environ(), e.variables()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", command, err, bytes.TrimSpace(out))
	}
	return string(out), err
}

// fleet runs kubectl-fleet as a person would and returns its standard output.
func (e *environment) fleet(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, e.path("bin", "kubectl-fleet"), args...)
	cmd.Env = append(os.Environ(), e.variables()...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl fleet %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// Configuration files hold passwords, if only of a broker on loopback.
func write(path string, content []byte, err error) error {
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func writeYAML(path string, value any) error {
	content, err := yaml.Marshal(value)
	return write(path, content, err)
}

func writeTOML(path string, value any) error {
	content, err := toml.Marshal(value)
	return write(path, content, err)
}
