// Command fleet-reload runs beside the broker in its pod, and has it read its
// certificate and configuration again when they have changed. It reads its flags,
// and package reload does the rest.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/operator/reload"
)

const usage = `Usage: fleet-reload [flags] FILE…

Sends SIGHUP to the process named by -process when one of the files has changed.
In a pod this needs shareProcessNamespace, and the same user as the server's.

`

// version is set by the linker in releases.
var version string

func main() {
	w := &reload.Watcher{Log: logr.FromSlogHandler(slog.NewJSONHandler(os.Stderr, nil))}
	flag.StringVar(&w.Process, "process", "nats-server", "`name` of the server's program, at most 15 bytes")
	flag.DurationVar(&w.Interval, "interval", 10*time.Second, "time between two looks at the files")
	tell := flag.Bool("version", false, "print the version, and end")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	if *tell {
		fmt.Println("fleet-reload version", cmp.Or(version, "unknown"))
		return
	}
	w.Files = flag.Args()
	if len(w.Files) == 0 || w.Interval <= 0 {
		fmt.Fprintln(os.Stderr, "fleet-reload: want the files to watch, and an interval above 0; --help shows how")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	w.Run(ctx)
}
