// Command kubectl-fleet is the kubectl plugin of Harmony Fleet: with it on PATH,
// `kubectl fleet` works. It parses nothing itself: see package kubectl.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/nationtech/harmony-fleet/operator/kubectl"
	"github.com/nationtech/harmony-fleet/operator/program"
)

// version is set by the linker in releases.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := kubectl.Run(ctx, program.Version(version), os.Args[1:], genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
	stop()
	os.Exit(code)
}
