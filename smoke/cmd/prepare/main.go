// Command prepare installs the Debian packages and builds the programs that the
// tests and the demo run, so that no test has to wait for a compiler; with -smoke,
// those of the smoke's cluster from source, Argo CD, and the disk of virtual machines,
// instead. What is there already is left alone; it never starts any of it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/nationtech/harmony-fleet/smoke/argocd"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/device/vm"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/programs"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

func main() {
	smoke := flag.Bool("smoke", false, "prepare the smoke instead")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	prepare := tests
	if *smoke {
		prepare = stories
	}
	err := prepare(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}

func stories(ctx context.Context) error {
	for _, prepare := range []func(context.Context, io.Writer) error{cluster.Prepare, argocd.Prepare, vm.Prepare} {
		if err := prepare(ctx, os.Stderr); err != nil {
			return err
		}
	}
	return nil
}

func tests(ctx context.Context) error {
	if err := podman.EnsureInstalled(ctx, os.Stderr); err != nil {
		return err
	}
	for _, tool := range []tools.Tool{tools.Etcd, tools.KubeAPIServer, tools.KubeControllerManager, tools.Kubectl, tools.NATS, tools.NATSServer, tools.NACK, tools.OpenBao} {
		if _, err := tools.Build(ctx, tool, os.Stderr); err != nil {
			return err
		}
	}
	return compile(ctx)
}

// compile has the compiler know this module's programs: tests that build them at the
// same time would each compile the same.
func compile(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "fleet-prepare-")
	if err != nil {
		return fmt.Errorf("compiling the programs: %w", err)
	}
	fmt.Fprintln(os.Stderr, "compiling this module's programs…")
	err = programs.Build(ctx, dir, "", programs.Operator, programs.Callout, programs.Kubectl, programs.Agent, programs.Broker)
	return errors.Join(err, os.RemoveAll(dir))
}
