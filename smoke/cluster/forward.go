package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/process"
)

// Forward is a port of this machine, on localhost, that leads to one of a pod.
type Forward struct {
	Port    int
	process *process.Process
	spec    process.Spec
	dir     string
}

// Forward runs `kubectl port-forward` to a port of the target, such as service/web,
// and returns when something listens. It ends when the pod does: then it has to be
// made Again.
func (c *Cluster) Forward(ctx context.Context, namespace, target string, port int) (_ *Forward, err error) {
	f := &Forward{}
	if f.Port, err = process.FreePort(); err != nil {
		return nil, err
	}
	if f.dir, err = os.MkdirTemp("", "fleet-forward-"); err != nil {
		return nil, fmt.Errorf("making a folder for a log: %w", err)
	}
	f.spec = process.Spec{
		Path: c.kubectl, Log: filepath.Join(f.dir, "log"),
		Args: []string{"--kubeconfig", c.kubeconfig, "--namespace", namespace, "port-forward", target, fmt.Sprintf("%d:%d", f.Port, port)},
	}
	if err := f.Again(ctx); err != nil {
		f.Stop()
		return nil, fmt.Errorf("forwarding a port to %s: %w", target, err)
	}
	return f, nil
}

// Again makes it anew, from the same port, to the pod that there is now.
func (f *Forward) Again(ctx context.Context) (err error) {
	if f.process != nil {
		f.process.Stop(time.Second)
	}
	if f.process, err = process.Start(f.spec); err != nil {
		return err
	}
	return f.process.WaitReady(ctx, f.listens)
}

func (f *Forward) listens(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("localhost", strconv.Itoa(f.Port)))
	if err == nil {
		err = conn.Close()
	}
	return err
}

// Stop ends it.
func (f *Forward) Stop() {
	if f.process != nil {
		f.process.Stop(time.Second)
	}
	_ = os.RemoveAll(f.dir) // a log; what is left of it does no harm
}
