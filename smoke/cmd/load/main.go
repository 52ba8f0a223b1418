// Command load runs the scale proof of package load and exits with 1 when
// anything is not as it should be. Ctrl-C ends it and takes everything down.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/load"
)

func main() {
	o := load.Options{Out: os.Stdout}
	flag.IntVar(&o.Devices, "devices", 100, "simulated devices")
	flag.IntVar(&o.Deployments, "deployments", 10, "Deployments; device i is in the group of Deployment i mod this")
	flag.IntVar(&o.Rate, "rate", 100, "state writes per second over all devices")
	flag.DurationVar(&o.Duration, "duration", time.Minute, "how long to write states")
	flag.Uint64Var(&o.Seed, "seed", rand.Uint64N(1_000_000), "seed of everything random")
	flag.IntVar(&o.Patches, "patches", config.OperatorDefaults().Status.PatchesPerSecond, "the operator's budget of status patches per second")
	flag.BoolVar(&o.SyncAlways, "sync-always", false, "have the broker sync each message to the disk")
	flag.StringVar(&o.Profile, "profile", "", "write a CPU profile of the operator to this `file`")
	flag.DurationVar(&o.SetupTimeout, "setup-timeout", 20*time.Minute, "bound of each of the phases that wait")
	flag.Parse()
	if flag.NArg() > 0 || o.Devices < 1 || o.Deployments < 1 || o.Rate < 1 || o.Duration <= 0 || o.Patches < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := load.Run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}
