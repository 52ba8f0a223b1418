package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/nationtech/harmony-fleet/smoke/steps"
)

// Clusters in docker, made by the command lines of kind and k3d. Both are untested:
// the hosts that this was written on have neither docker nor a registry. A smoke
// that is killed leaves its cluster to `kind get clusters` and `k3d cluster list`.

// kind is a cluster of kind.
type kind struct{ inDocker }

func (k *kind) up(ctx context.Context, journal *steps.Journal) (kubeconfig string, err error) {
	if kubeconfig, err = k.prepare(); err != nil {
		return "", err
	}
	return kubeconfig, journal.Step("creating a cluster with kind", func() error {
		return run(ctx, "kind", "create", "cluster", "--name", k.name, "--kubeconfig", kubeconfig, "--wait", "5m")
	})
}

func (k *kind) load(ctx context.Context, archive string) error {
	return run(ctx, "kind", "load", "image-archive", archive, "--name", k.name)
}

func (k *kind) down() error { return k.remove("kind", "delete", "cluster", "--name", k.name) }

// k3d is a cluster of k3d.
type k3d struct{ inDocker }

func (k *k3d) up(ctx context.Context, journal *steps.Journal) (kubeconfig string, err error) {
	if kubeconfig, err = k.prepare(); err != nil {
		return "", err
	}
	return kubeconfig, journal.Step("creating a cluster with k3d", func() error {
		if err := run(ctx, "k3d", "cluster", "create", k.name, "--kubeconfig-update-default=false", "--wait"); err != nil {
			return err
		}
		return run(ctx, "k3d", "kubeconfig", "write", k.name, "--output", kubeconfig)
	})
}

func (k *k3d) load(ctx context.Context, archive string) error {
	return run(ctx, "k3d", "image", "import", archive, "--cluster", k.name)
}

func (k *k3d) down() error { return k.remove("k3d", "cluster", "delete", k.name) }

// inDocker is what both need: a name, and a folder for the kubeconfig.
type inDocker struct{ name, dir string }

func (d *inDocker) prepare() (kubeconfig string, err error) {
	var suffix [3]byte
	if _, err := rand.Read(suffix[:]); err != nil {
		return "", fmt.Errorf("naming a cluster: %w", err)
	}
	if d.dir, err = os.MkdirTemp("", "fleet-cluster-"); err != nil {
		return "", fmt.Errorf("making a temporary folder: %w", err)
	}
	d.name = fmt.Sprintf("fleet-%x", suffix)
	return filepath.Join(d.dir, "kubeconfig"), nil
}

func (d *inDocker) remove(program string, args ...string) error {
	if d.dir == "" {
		return nil
	}
	// Not with the context of the start, which may be cancelled.
	if err := run(context.Background(), program, args...); err != nil {
		return err
	}
	dir := d.dir
	d.dir = ""
	return os.RemoveAll(dir)
}

func run(ctx context.Context, program string, args ...string) error {
	_, err := output(exec.CommandContext(ctx, program, args...))
	return err
}
