// Command bench measures the ratios of package bench and prints them against
// their targets. A missed target is printed as such and is no failure.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/nationtech/harmony-fleet/smoke/bench"
)

func main() {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // libraries tell there of each route that they serve
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench.Run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
