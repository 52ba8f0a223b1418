// Package rehearsal_test rehearses what a fleet with tokens has to live through, with
// two devices and one admin: an OpenID provider, OpenBao, a broker that asks the auth
// callout, the operator with a kube-apiserver, and two agents, each with a podman of
// its own. All of them are real; nothing stands for another part.
package rehearsal_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/agent"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/crds"
	fleetv1 "github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator"
	"github.com/nationtech/harmony-fleet/operator/callout"
	"github.com/nationtech/harmony-fleet/operator/openbao"
	"github.com/nationtech/harmony-fleet/smoke/auth"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/kube"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	code := kube.RunTests(m)
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// patience is for a machine that is busy: what is waited for takes seconds, and up to
// a minute where a device waits between two attempts to connect.
const patience = 4 * time.Minute

// The two devices. The id of one is the beginning of the other's.
const first, second wire.DeviceID = "pi-4", "pi-42"

// logbook keeps log lines.
type logbook struct {
	mu    sync.Mutex
	lines []string
}

func (l *logbook) logger() logr.Logger {
	return funcr.New(func(prefix, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, time.Now().Format("15:04:05.000 ")+prefix+" "+args)
	}, funcr.Options{Verbosity: 1})
}

// having counts the lines that contain all of the words.
func (l *logbook) having(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for _, line := range l.lines {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue next
			}
		}
		n++
	}
	return n
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// device is one device of the fleet.
type device struct {
	id     wire.DeviceID
	podman *podman.Service
	log    *logbook
}

// fleet is everything that runs.
type fleet struct {
	*testing.T
	auth     *auth.Auth
	broker   *broker.Process
	callout  *callout.Service
	skew     atomic.Int64 // added to the callout's clock, in nanoseconds
	registry *registry.Registry
	kube     client.Client
	admin    *nats.Conn
	streams  jetstream.JetStream
	logs     map[string]*logbook
	devices  []*device
}

// newFleet starts everything; tokens live for lifetime, 12 hours if it is 0. It
// returns when both devices have appeared.
func newFleet(t *testing.T, lifetime time.Duration) *fleet {
	t.Helper()
	f := &fleet{T: t, logs: map[string]*logbook{"operator": {}, "callout": {}, string(first): {}, string(second): {}}}
	t.Cleanup(func() {
		for name, log := range f.logs {
			if t.Failed() {
				t.Logf("the log of %s:\n%s", name, log)
			}
		}
	})
	var err error
	f.broker, err = broker.StartProcess(t.Context(), broker.Options{Callout: true})
	f.must(err)
	t.Cleanup(f.broker.Stop)
	f.auth, err = auth.Start(t.Context(), auth.Options{Dir: t.TempDir(), Callout: f.broker.Callout(), TokenLifetime: lifetime, Progress: t.Output()})
	f.must(err)
	t.Cleanup(f.auth.Stop)
	f.registry, err = registry.Start()
	f.must(err)
	t.Cleanup(func() { f.must(f.registry.Stop()) })
	image, err := images.Hello("1")
	f.must(err)
	f.must(f.registry.Push("hello:1", image))
	f.runCallout()
	f.connect()
	f.runOperator()
	for _, id := range []wire.DeviceID{first, second} {
		f.add(id)
	}
	for _, d := range f.devices {
		f.eventually(string(d.id)+" appears", func() error { return f.reachable(d) })
	}
	return f
}

func (f *fleet) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// eventually waits until check passes.
func (f *fleet) eventually(what string, check func() error) {
	f.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			f.Fatalf("%s: not within %s: %v", what, patience, err)
		}
	}
}

// background runs do until the test ends, and returns what ends it before.
func (f *fleet) background(do func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		if err := do(ctx); err != nil {
			f.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); work.Wait() })
	f.Cleanup(stop)
	return stop
}

// runCallout runs what fleet-callout does, with a clock that the test may move.
func (f *fleet) runCallout() {
	f.Helper()
	now := func() time.Time { return time.Now().Add(time.Duration(f.skew.Load())) }
	log := f.logs["callout"].logger()
	store, err := openbao.New(openbao.Options{Config: f.auth.Callout.OpenBao, Log: log.WithName("openbao"), Now: now})
	f.must(err)
	f.Cleanup(store.Close)
	provider := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	f.callout, err = callout.New(callout.Options{Config: f.auth.Callout, Policies: store, Provider: provider, Log: log, Now: now})
	f.must(err)
	f.background(f.callout.Run)
	f.background(func(ctx context.Context) error { store.Run(ctx, f.callout.Cut); return nil })
	f.eventually("the callout is ready", func() error { return errors.Join(store.Ready(), f.callout.Ready()) })
}

// connect connects the admin to the broker and to the cluster, where nothing is of an
// earlier test.
func (f *fleet) connect() {
	f.Helper()
	plane := kube.Shared(f)
	f.must(kube.InstallCRDs(f.Context(), plane.Config(), crds.All()))
	scheme := runtime.NewScheme()
	f.must(fleetv1.AddToScheme(scheme))
	var err error
	f.kube, err = client.New(plane.Config(), client.Options{Scheme: scheme})
	f.must(err)
	left := &fleetv1.DeploymentList{}
	f.must(f.kube.List(f.Context(), left))
	for i := range left.Items {
		d := &left.Items[i]
		f.must(client.IgnoreNotFound(f.kube.Patch(f.Context(), d, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))))
		f.must(client.IgnoreNotFound(f.kube.Delete(f.Context(), d)))
	}
	f.must(f.kube.DeleteAllOf(f.Context(), &fleetv1.Device{}))
	as := func(c v1alpha1.Credentials) *nats.Conn {
		nc, err := nats.Connect(f.broker.URL(), nats.UserInfo(c.User, c.Password), nats.Timeout(patience), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
		f.must(err)
		f.Cleanup(nc.Close)
		return nc
	}
	f.admin = as(f.broker.Admin())
	f.streams, err = jetstream.New(as(f.broker.Provisioner()))
	f.must(err)
}

func (f *fleet) runOperator() {
	f.Helper()
	c := v1alpha1.OperatorDefaults()
	c.NATS, c.Credentials, c.Signing = f.broker.NATS(), f.broker.Operator(), f.broker.Signing()
	c.LeaderElection.Enabled = false
	c.MetricsAddress, c.ProbeAddress = "0", "0"
	var err error
	c.OpenBao, err = f.auth.Bao.Program(f.Context(), c.OpenBao.LoginRole, f.TempDir())
	f.must(err)
	log := f.logs["operator"].logger()
	f.background(func(ctx context.Context) error {
		return operator.Run(ctx, kube.Shared(f).Config(), c, operator.Options{Log: log, Version: "test", Metrics: prometheus.NewRegistry()})
	})
}

// add enrols a device and runs its podman and its agent.
func (f *fleet) add(id wire.DeviceID) {
	f.Helper()
	d := &device{id: id, log: f.logs[string(id)]}
	var err error
	d.podman, err = podman.Start(f.Context(), podman.Options{Name: string(id), Progress: f.Output()})
	f.must(err)
	f.Cleanup(func() { f.must(d.podman.Stop()) })
	c := v1alpha1.AgentDefaults()
	c.Agent.DeviceID, c.Agent.StateDir, c.Agent.TrustedKeys = string(id), f.TempDir(), f.broker.TrustedKeys()
	c.Labels = map[string]string{"group": "rehearsal"}
	c.Podman.Socket, c.Podman.PollInterval = d.podman.Socket(), v1alpha1.Duration(time.Second)
	c.NATS = f.broker.NATS()
	c.Credentials, err = f.auth.Enrol(f.Context(), id, policy.Policy{Labels: map[string][]string{"group": {"rehearsal"}}})
	f.must(err)
	f.must(c.Validate())
	f.background(func(ctx context.Context) error {
		return agent.Run(ctx, c, agent.Options{Version: "test", Log: d.log.logger()})
	})
	f.devices = append(f.devices, d)
}

// reachable checks that the cluster knows the device, by its label, and hears it.
func (f *fleet) reachable(d *device) error {
	resource := &fleetv1.Device{}
	if err := f.kube.Get(f.Context(), client.ObjectKey{Name: string(d.id)}, resource); err != nil {
		return err
	}
	for _, c := range resource.Status.Conditions {
		if c.Type == fleetv1.ConditionReachable && c.Status == metav1.ConditionTrue && resource.Labels["group"] == "rehearsal" {
			return nil
		}
	}
	return fmt.Errorf("its labels are %v, its status %+v", resource.Labels, resource.Status)
}
