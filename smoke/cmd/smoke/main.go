// Command smoke brings a cluster up, tells the stories of package stories on it, and
// says how long each step took. It exits with 1 when one fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/steps"
	"github.com/nationtech/harmony-fleet/smoke/stories"
)

// smoke is what to do.
type smoke struct {
	cluster.Options
	clusters int // at the same time
	story    string
	keep     bool
}

func main() {
	var s smoke
	flag.StringVar(&s.Provider, "cluster", "", "where the cluster comes from: "+strings.Join(cluster.Providers, ", ")+"; empty takes what is here")
	flag.StringVar(&s.Kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "cluster to use; empty makes one")
	flag.StringVar(&s.Load, "load", "", "shell command that puts the tar archive given to it on the nodes of an existing cluster")
	flag.IntVar(&s.clusters, "clusters", 1, "how many clusters tell stories at the same time, where they are made from source")
	flag.StringVar(&s.story, "story", "", "tell this story alone")
	flag.BoolVar(&s.keep, "keep", false, "leave the clusters up until Ctrl-C, also after a failure")
	flag.Parse()
	// Signals stay caught until everything is down: a second Ctrl-C must not
	// leave a cluster behind.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	begin := time.Now()
	err := s.run(ctx, os.Stdout)
	fmt.Printf("total %s\n", steps.Since(begin))
	if err != nil {
		fmt.Fprintln(os.Stderr, "smoke:", err)
		os.Exit(1)
	}
}

// run tells the stories and prints how long each step took.
func (s smoke) run(ctx context.Context, out io.Writer) error {
	told, err := chosen(s.story)
	if err != nil {
		return err
	}
	if s.Provider == "" {
		choice := cluster.Pick(s.Kubeconfig, exec.LookPath)
		fmt.Fprintf(out, "cluster: %s, because %s\n", choice.Provider, choice.Why)
		s.Provider = choice.Provider
	}
	lanes := min(s.clusters, len(told))
	if s.Provider != "source" {
		lanes = 1 // others are one for all
	}
	outs := []io.Writer{out}
	if lanes > 1 {
		outs = side(out, lanes)
	}
	var (
		running  sync.WaitGroup
		untold   = newQueue(told)
		journals = make([]*steps.Journal, lanes)
		errs     = make([]error, lanes)
	)
	for n := range lanes {
		o := s.Options
		journals[n] = &steps.Journal{Out: outs[n]}
		o.Journal = journals[n]
		running.Go(func() { errs[n] = lane(ctx, o, untold, s.keep) })
	}
	running.Wait()
	for _, j := range journals {
		fmt.Fprintf(out, "\n%s", j.Table())
	}
	return errors.Join(errs...)
}

// chosen are the stories to tell.
func chosen(only string) ([]stories.Story, error) {
	var names []string
	for _, s := range append(stories.All(), stories.Endurance()...) {
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
