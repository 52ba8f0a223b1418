// Command smoke brings a cluster up, tells the stories of package stories on it, and
// says how long each step took. It exits with 1 when one fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/steps"
	"github.com/nationtech/harmony-fleet/smoke/stories"
)

func main() {
	options := cluster.Options{Journal: &steps.Journal{Out: os.Stdout}}
	flag.StringVar(&options.Provider, "cluster", "", "where the cluster comes from: "+strings.Join(cluster.Providers, ", ")+"; empty takes what is here")
	flag.StringVar(&options.Kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "cluster to use; empty makes one")
	flag.StringVar(&options.Load, "load", "", "shell command that puts the tar archive given to it on the nodes of an existing cluster")
	only := flag.String("story", "", "tell this story alone")
	keep := flag.Bool("keep", false, "leave the cluster up until Ctrl-C, also after a failure")
	flag.Parse()
	// Signals stay caught until everything is down: a second Ctrl-C must not
	// leave a cluster behind.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	begin := time.Now()
	err := smoke(ctx, options, *only, *keep)
	fmt.Printf("\n%s%s\n", options.Journal.Table(), "total "+steps.Since(begin))
	if err != nil {
		fmt.Fprintln(os.Stderr, "smoke:", err)
		os.Exit(1)
	}
}

func smoke(ctx context.Context, o cluster.Options, only string, keep bool) (err error) {
	told, err := chosen(only)
	if err != nil {
		return err
	}
	var c *cluster.Cluster
	err = o.Journal.Group("the cluster comes up", func() error {
		c, err = cluster.Start(ctx, o)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Journal.Step("the cluster goes down", c.Stop)) }()
	for _, s := range told {
		err = o.Journal.Group("story "+s.Name+": "+s.Shows, func() error { return s.Run(ctx, c) })
		if err != nil {
			fmt.Fprintln(o.Journal.Out, c.Describe())
			break
		}
	}
	if keep {
		fmt.Fprintf(o.Journal.Out, "the cluster is up until Ctrl-C: export KUBECONFIG=%s\n", c.Kubeconfig())
		<-ctx.Done()
	}
	return err
}

// chosen are the stories to tell.
func chosen(only string) ([]stories.Story, error) {
	var names []string
	for _, s := range stories.All() {
		if s.Name == only {
			return []stories.Story{s}, nil
		}
		names = append(names, s.Name)
	}
	if only != "" {
		return nil, fmt.Errorf("there is no story %q; it is one of %s", only, strings.Join(names, ", "))
	}
	return stories.All(), nil
}
