// Command demo shows the whole fleet on this machine, or with -auto runs its
// regression: see package demo.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/nationtech/harmony-fleet/smoke/demo"
)

func main() {
	options := demo.Options{Out: os.Stdout}
	flag.BoolVar(&options.Auto, "auto", false, "run the regression and exit, with 1 when it fails")
	flag.BoolVar(&options.Auth, "auth", false, "have devices log in with tokens of an OpenID provider, and keep their policies in OpenBao")
	flag.StringVar(&options.Kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "cluster to use; empty starts a control plane here")
	flag.StringVar(&options.Dir, "dir", "", "empty folder for configuration and logs, which then stay; default a temporary one")
	flag.Parse()
	slog.SetDefault(slog.New(slog.DiscardHandler)) // libraries tell there of each route that they serve
	// Signals stay caught until everything is down: a second Ctrl-C must not
	// leave containers behind.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if err := demo.Run(ctx, options); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
