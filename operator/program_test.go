package operator_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
)

// program is fleet-operator as it is installed: a process, which can be killed.
type program struct {
	w    *world
	spec process.Spec

	mu      sync.Mutex
	process *process.Process // guarded by mu
}

// built is the folder of the programs under test, made by build.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// build compiles fleet-operator once for all tests of this package. TestMain
// removes the folder.
func build(ctx context.Context) (string, error) {
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "fleet-operator-"); built.err != nil {
			return
		}
		built.err = programs.Build(ctx, built.dir, "", programs.Operator)
	})
	return filepath.Join(built.dir, "fleet-operator"), built.err
}

// program prepares fleet-operator with its configuration file, as the user that
// has the operator's rules and no others.
func (w *world) program(elect bool) *program {
	w.Helper()
	path, err := build(w.Context())
	w.must(err)
	dir := w.TempDir()
	c := config.OperatorDefaults()
	c.NATS, c.Credentials, c.Signing = w.broker.NATS(), w.broker.Operator(), w.broker.Signing()
	c.LeaderElection = config.LeaderElection{Enabled: elect, Namespace: operatorNamespace}
	c.MetricsAddress, c.ProbeAddress = "0", "0"
	data, err := yaml.Marshal(c)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(dir, "config.yaml"), data, 0o600))
	kubeconfig, err := clientcmd.LoadFromFile(w.plane.Kubeconfig())
	w.must(err)
	for _, user := range kubeconfig.AuthInfos {
		user.Impersonate = operatorUser
	}
	w.must(clientcmd.WriteToFile(*kubeconfig, filepath.Join(dir, "kubeconfig")))
	p := &program{w: w, spec: process.Spec{
		Path: path,
		Args: []string{"--config", filepath.Join(dir, "config.yaml"), "--kubeconfig", filepath.Join(dir, "kubeconfig")},
		Log:  filepath.Join(dir, "log"),
	}}
	w.Cleanup(func() {
		p.kill()
		if log, err := os.ReadFile(p.spec.Log); err == nil && w.Failed() {
			w.Logf("fleet-operator's log:\n%s", log)
		}
	})
	return p
}

// run starts it.
func (p *program) run() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	p.process, err = process.Start(p.spec)
	return err
}

// kill ends it with SIGKILL, if it runs.
func (p *program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		p.process.Stop(0)
	}
}

// supervise runs it until the returned function is called, and starts it again
// when it ends, as a kubelet would. starts tells how often it was started.
func (p *program) supervise() (stop func() (starts int)) {
	ctx, cancel := context.WithCancel(context.Background())
	starts, ended := 0, make(chan struct{})
	go func() {
		defer close(ended)
		for ; ctx.Err() == nil; starts++ {
			if err := p.run(); err != nil {
				p.w.Errorf("starting fleet-operator: %v", err)
				return
			}
			select {
			case <-p.process.Exited():
			case <-ctx.Done():
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
		p.kill()
	}()
	stop = func() int { cancel(); <-ended; return starts }
	p.w.Cleanup(func() { stop() })
	return stop
}

// TestOperatorIsKilled in the middle of its writes, again and again: half a batch
// is not stored, the last one brings it to the end, and nothing is left over.
func TestOperatorIsKilled(t *testing.T) {
	w := newWorld(t)
	const devices = 100
	for i := range devices {
		w.announce(wire.DeviceID(fmt.Sprintf("pi-%d", i)), map[string]string{"group": "a"})
	}
	p := w.program(false)
	w.must(p.run())
	w.eventually("the devices", func() error {
		list := &v1alpha1.DeviceList{}
		w.must(w.api.List(t.Context(), list))
		if len(list.Items) != devices {
			return fmt.Errorf("there are %d", len(list.Items))
		}
		return nil
	})
	namespace := w.namespace()
	var kept []*v1alpha1.Deployment
	for round, messages := range []int{1, 50, 150, 333, 599} {
		killed := w.killAt(p, messages)
		var gone *v1alpha1.Deployment
		for i := range 6 {
			d := deployment(namespace, fmt.Sprintf("web-%d-%d", round, i), "a")
			w.must(w.api.Create(t.Context(), d))
			if i == 0 {
				gone = d
			} else {
				kept = append(kept, d)
			}
		}
		select {
		case <-killed:
		case <-time.After(patience):
			t.Fatalf("round %d: fewer than %d messages were sent", round, messages)
		}
		w.must(w.api.Delete(t.Context(), gone))
		w.must(p.run())
	}
	for i := range devices {
		w.awaitDesired(wire.DeviceID(fmt.Sprintf("pi-%d", i)), kept...)
	}
	w.eventually("no orphan", func() error {
		if got, want := len(w.keys(wire.DesiredState)), devices*(len(kept)+1); got != want {
			return fmt.Errorf("the bucket holds %d keys, want %d", got, want)
		}
		return nil
	})
}

// killAt kills the operator as soon as it has sent so many messages of desired
// state, stored or not, and closes the channel then.
func (w *world) killAt(p *program, messages int) <-chan struct{} {
	w.Helper()
	killed := make(chan struct{})
	seen := 0
	sub, err := w.conn.Subscribe(wire.DesiredState.Subjects(), func(*nats.Msg) {
		if seen++; seen == messages {
			p.kill()
			close(killed)
		}
	})
	w.must(err)
	w.must(w.conn.Flush())
	go func() {
		select {
		case <-killed:
		case <-w.Context().Done():
		}
		_ = sub.Unsubscribe() // the connection may be closed
	}()
	return killed
}

// TestAPIServerIsGoneForAMinute: leader and standby lose the lease and end, as
// they must, and whichever is started again finds everything that happened.
func TestAPIServerIsGoneForAMinute(t *testing.T) {
	w := newWorld(t)
	stops := []func() int{w.program(true).supervise(), w.program(true).supervise()}
	w.announce("pi-1", map[string]string{"group": "a"})
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	w.awaitDesired("pi-1", d)
	before := w.lastSequence(wire.DesiredState)

	w.must(w.plane.StopAPIServer())
	w.announce("pi-2", map[string]string{"group": "a"})
	w.report("pi-1", idOf(d), wire.DeviceState{Phase: wire.PhaseFailed, Reason: "CrashLoop", Digest: digestOf(t, d.Spec.Score)})
	w.never("writes without knowing what is wanted", time.Minute, func() error {
		if now := w.lastSequence(wire.DesiredState); now != before {
			return fmt.Errorf("the bucket went from %d to %d", before, now)
		}
		return nil
	})
	w.must(w.plane.StartAPIServer(t.Context()))
	w.awaitDesired("pi-2", d)
	w.awaitStatus(d, "caught up", func(s v1alpha1.DeploymentStatus) bool {
		return s.Aggregate.MatchedDeviceCount == 2 && s.Aggregate.Failed == 1
	})
	starts := 0
	for _, stop := range stops {
		starts += stop()
	}
	if starts < 3 {
		t.Errorf("%d starts of two operators: the leader went on without its lease", starts)
	}
}
