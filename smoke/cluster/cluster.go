// Package cluster brings up a Kubernetes cluster with a real node for the smoke:
// one made on this machine from source, one of kind or k3d, or the existing one of
// a kubeconfig. What it makes it takes down again without a trace, also when it is
// interrupted or killed. It never touches a daemon or a network of the host's own,
// and in an existing cluster it does nothing by itself.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nationtech/harmony-fleet/smoke/steps"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// provider is where a cluster comes from. Its methods are called one at a time.
type provider interface {
	// up brings the cluster up and returns the path of the administrator's
	// kubeconfig. What is left of a failed attempt, down removes.
	up(ctx context.Context, journal *steps.Journal) (kubeconfig string, err error)
	// load makes the images of a tar archive known to the nodes.
	load(ctx context.Context, archive string) error
	// down removes the cluster. It may be called more than once.
	down() error
}

// restarter is a provider that can restart the kubelet of its node.
type restarter interface{ restartKubelet() error }

// Options of a cluster.
type Options struct {
	// Provider is one of Providers; "" has Pick choose.
	Provider string
	// Kubeconfig of the provider existing, and the shell command, to which the path
	// of a tar archive is added, that puts images on its nodes.
	Kubeconfig, Load string
	// Journal has the steps of the start, and of who uses the cluster. Required.
	Journal *steps.Journal
}

// Cluster is a running cluster.
type Cluster struct {
	provider   provider
	journal    *steps.Journal
	kubeconfig string
	config     *rest.Config
	kubectl    string
}

// Start brings a cluster up and returns when a pod would be scheduled. Cancelling
// ctx ends the start, after which nothing is left, but not a running cluster.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	if o.Provider == "" {
		choice := Pick(o.Kubeconfig, exec.LookPath)
		fmt.Fprintf(o.Journal.Out, "cluster: %s, because %s\n", choice.Provider, choice.Why)
		o.Provider = choice.Provider
	}
	c := &Cluster{journal: o.Journal}
	if c.provider, err = newProvider(o); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("bringing up a cluster (%s): %w", o.Provider, err), c.Stop())
		}
	}()
	if c.kubectl, err = findKubectl(ctx, o); err != nil {
		return nil, err
	}
	if c.kubeconfig, err = c.provider.up(ctx, o.Journal); err != nil {
		return nil, err
	}
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		return nil, fmt.Errorf("reading kubeconfig %q: %w", c.kubeconfig, err)
	}
	return c, nil
}

// findKubectl is the host's own, which suits its cluster, or one built with the
// control plane from source.
func findKubectl(ctx context.Context, o Options) (string, error) {
	if path, err := exec.LookPath("kubectl"); err == nil && o.Provider != "source" {
		return path, nil
	}
	return tools.Build(ctx, tools.Kubectl, o.Journal.Out)
}

// Stop removes the cluster, except an existing one. It may be called more than once.
func (c *Cluster) Stop() error { return c.provider.down() }

// ErrUnable says that the provider has no way to do something to its nodes.
var ErrUnable = errors.New("the cluster's provider cannot do that")

// RestartKubelet kills the kubelet of the only node and starts another. What runs in
// pods is not asked. It fails with ErrUnable.
func (c *Cluster) RestartKubelet() error {
	p, able := c.provider.(restarter)
	if !able {
		return ErrUnable
	}
	return p.restartKubelet()
}

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig }

// Program is the path of the kubectl that suits the cluster.
func (c *Cluster) Program() string { return c.kubectl }

// Config is a copy of the administrator's client configuration.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Step runs a step of who uses the cluster, and remembers it in the journal.
func (c *Cluster) Step(what string, run func() error) error { return c.journal.Step(what, run) }

// ImportImage makes the images of a tar archive, with the names that they have there,
// known to the nodes: pods with the pull policy IfNotPresent or Never run them.
func (c *Cluster) ImportImage(ctx context.Context, archive string) error {
	if err := c.provider.load(ctx, archive); err != nil {
		return fmt.Errorf("importing the image archive %s: %w", archive, err)
	}
	return nil
}

// ImportLayout does so with the image of an OCI layout, the folder, by the full name
// that pods have, such as example.org/app:v1.
func (c *Cluster) ImportLayout(ctx context.Context, folder, name string) error {
	file, err := os.CreateTemp("", "fleet-image-*.tar")
	if err != nil {
		return fmt.Errorf("making an archive of the image %s: %w", name, err)
	}
	defer os.Remove(file.Name()) //nolint:errcheck // what is left of it does no harm
	if err := errors.Join(archiveLayout(file, folder, name), file.Close()); err != nil {
		return err
	}
	return c.ImportImage(ctx, file.Name())
}

// Kubectl runs kubectl on the cluster, with the manifest on its standard input, and
// returns its standard output. The error has its standard error.
func (c *Cluster) Kubectl(ctx context.Context, manifest string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.kubectl, append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(manifest)
	return output(cmd)
}

// Progress hears of what takes long.
func (c *Cluster) Progress() io.Writer { return c.journal.Out }

// Describe is what goes on in the cluster, for a person who must find out why
// something failed.
func (c *Cluster) Describe() string {
	// What failed may be that the context of the caller is done.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var text strings.Builder
	for _, args := range [][]string{
		{"get", "nodes,persistentvolumeclaims,pods", "--all-namespaces", "--output=wide"},
		{"get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"},
	} {
		out, err := c.Kubectl(ctx, "", args...)
		fmt.Fprintf(&text, "--- kubectl %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(&text, err)
		}
	}
	return text.String()
}

// output runs a command; the error has what it wrote to standard error.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
