package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Options of a demo.
type Options struct {
	// Auto runs the regression and returns, instead of waiting for ctx to end.
	Auto bool
	// Auth has devices log in with tokens of an OpenID provider instead of
	// passwords, and keeps their policies in OpenBao.
	Auth bool
	// Kubeconfig of a cluster to use; "" starts a control plane.
	Kubeconfig string
	// Dir holds configuration and logs, and stays; "" means a temporary folder
	// that is removed.
	Dir string
	// Out hears of progress and shows the menu.
	Out io.Writer
}

// Run runs the demo until ctx ends, or until its regression has. It returns when
// everything is down again, whatever happened.
func Run(ctx context.Context, options Options) (err error) {
	e, err := newEnvironment(options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop()) }()
	if err := e.start(ctx); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		return fmt.Errorf("starting the demo: %w\n%s", err, e.logTails())
	}
	if options.Auto {
		return e.regression(ctx)
	}
	if err := e.printMenu(); err != nil {
		return fmt.Errorf("printing the menu: %w", err)
	}
	e.wait(ctx)
	fmt.Fprintln(e.out, "taking everything down …")
	return nil
}

// wait returns when ctx ends, and tells of a program that ends before.
func (e *environment) wait(ctx context.Context) {
	ended := make(chan string, len(e.programs))
	for name, p := range e.programs {
		go func() {
			select {
			case <-p.Exited():
				ended <- fmt.Sprintf("%s: %v", name, p.Failure())
			case <-ctx.Done():
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case what := <-ended:
			fmt.Fprintln(e.out, what)
		}
	}
}
