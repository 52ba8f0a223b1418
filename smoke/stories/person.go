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

	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/device"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/programs"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

// person has a device, kubectl-fleet, and a registry with the image that is to run.
type person struct {
	dir      string
	registry *registry.Registry
	env      []string
}

// newPerson has the image for an architecture, and also builds other programs. Whatever
// happens, have them leave.
func newPerson(ctx context.Context, c *cluster.Cluster, arch string, others ...programs.Command) (p *person, err error) {
	p = &person{env: []string{"KUBECONFIG=" + c.Kubeconfig()}}
	if p.dir, err = os.MkdirTemp("", "fleet-story-"); err != nil {
		return p, fmt.Errorf("making a folder for a person: %w", err)
	}
	if err := programs.Build(ctx, p.dir, version.Tag, append(others, programs.Kubectl)...); err != nil {
		return p, err
	}
	if p.registry, err = registry.Start(); err != nil {
		return p, err
	}
	for _, tag := range []string{"v1", "v2"} {
		image, err := images.HelloFor(tag, arch)
		if err != nil {
			return p, err
		}
		if err := p.registry.Push("hello:"+tag, image); err != nil {
			return p, err
		}
	}
	return p, nil
}

// leave ends the registry and removes the folder.
func (p *person) leave() (err error) {
	if p == nil {
		return nil
	}
	if p.registry != nil {
		err = p.registry.Stop()
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

func (p *person) path(name string) string { return filepath.Join(p.dir, name) }

// fleet is `kubectl fleet` as a person runs it.
func (p *person) fleet(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.path("kubectl-fleet"), args...)
	cmd.Env = append(os.Environ(), p.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl fleet %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// ref is an image of the registry, as this host has it.
func (p *person) ref(image string) string { return p.registry.Ref(image) }

// owned is a device together with who has it.
type owned interface {
	device.Computer
	fleet(ctx context.Context, args ...string) (string, error)
	ref(image string) string
}

// containers asks podman for the ids of what it runs and since when each does, one in
// each line; of which Deployments may be said.
func containers(ctx context.Context, podman func(context.Context, ...string) (string, error), of []string) (string, error) {
	args := []string{"ps", "--no-trunc", "--format={{.ID}} {{.StartedAt}}"}
	for _, name := range of {
		args = append(args, "--filter=name="+name)
	}
	lines, err := podman(ctx, args...)
	return strings.TrimSpace(lines), err
}
