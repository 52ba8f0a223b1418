// Package enrol_test takes devices through their lives with a fleet, with real
// parts alone: a broker with TLS and two replicas of fleet-callout, a control plane
// with the operator, kubectl-fleet as a person runs it, and fleet-agent with podman.
// OpenBao's API keeps the policies of devices, or the cluster, beside which there
// is nothing then.
package enrol_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/operator"
	"github.com/nationtech/harmony-fleet/operator/access"
	"github.com/nationtech/harmony-fleet/operator/publish"
	"github.com/nationtech/harmony-fleet/operator/roster"
	"github.com/nationtech/harmony-fleet/smoke/auth"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/kube"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	os.Exit(kube.RunTests(m))
}

// patience is how long a test waits for something to become so: far more than it
// takes on a busy machine.
const patience = 3 * time.Minute

// world is a fleet without devices.
type world struct {
	*testing.T
	bin       string // folder of the programs
	broker    *broker.Broker
	plane     *kube.ControlPlane
	registry  *registry.Registry
	variables []string // environment of a person
	// told are variables about the broker, which who enrols a device needs where the
	// operator publishes nothing.
	told      []string
	published bool
	skew      atomic.Int64 // added to the operator's clock, in nanoseconds
}

// newWorld has a store that puts the parts of the configurations in.
func newWorld(t *testing.T, store func(*world, *config.OperatorConfig) (replica func(name string) (file, ready string, err error), env []string)) *world {
	t.Helper()
	w := &world{T: t, bin: t.TempDir()}
	w.must(programs.Build(t.Context(), w.bin, "v1.2.3", programs.Callout, programs.Kubectl, programs.Agent))
	var err error
	w.broker, err = broker.Start(t.Context(), broker.Options{Callout: true, TLS: true})
	w.must(err)
	t.Cleanup(w.broker.Stop)
	w.registry, err = registry.Start()
	w.must(err)
	t.Cleanup(func() { w.must(w.registry.Stop()) })
	image, err := images.Hello("v1")
	w.must(err)
	w.must(w.registry.Push("hello:v1", image))
	w.plane = kube.Shared(t)
	w.must(kube.InstallCRDs(t.Context(), w.plane.Config(), crds.All()))

	admin := w.broker.Admin()
	w.variables = []string{"FLEET_NATS_USER=" + admin.User, "FLEET_NATS_PASSWORD=" + admin.Password}
	w.told = []string{
		"FLEET_NATS_URL=" + w.broker.URL(), "FLEET_NATS_CA_FILE=" + w.broker.NATS().CAFile,
		"FLEET_TRUSTED_KEYS=" + strings.Join(w.broker.TrustedKeys(), ","),
	}
	c := config.OperatorDefaults()
	replica, env := store(w, &c)
	for _, name := range []string{"callout-1", "callout-2"} {
		file, ready, err := replica(name)
		w.must(err)
		w.run(process.Spec{Path: filepath.Join(w.bin, "fleet-callout"), Args: []string{"--config", file}, Env: env}, name).ready(ready)
	}
	w.startOperator(c)
	if w.published {
		clients, err := kubernetes.NewForConfig(w.plane.Config())
		w.must(err)
		w.eventually("the operator publishes", func() error {
			_, err := clients.CoreV1().ConfigMaps(c.LeaderElection.Namespace).Get(t.Context(), config.PublishedName, metav1.GetOptions{})
			return err
		})
	}
	return w
}

// inOpenBao has OpenBao keep the policies.
func inOpenBao(w *world, c *config.OperatorConfig) (func(string) (string, string, error), []string) {
	w.Helper()
	a, err := auth.Start(w.Context(), auth.Options{Dir: w.TempDir(), Callout: w.broker.Callout()})
	w.must(err)
	w.Cleanup(a.Stop)
	c.OpenBao, err = a.Bao.Program(w.Context(), c.OpenBao.LoginRole, w.TempDir())
	w.must(err)
	person, err := a.Bao.Person(w.Context())
	w.must(err)
	w.variables = append(w.variables, "KUBECONFIG="+w.plane.Kubeconfig(), "BAO_ADDR="+a.Bao.Address(), "BAO_TOKEN="+person)
	return a.Replica, nil
}

// inCluster has the cluster keep them. Everybody has the rights that are documented
// for them, and the operator publishes what devices are to be told.
func inCluster(w *world, c *config.OperatorConfig) (func(string) (string, string, error), []string) {
	w.Helper()
	dir := w.TempDir()
	var rights []rbacv1.PolicyRule
	for _, role := range access.ClusterRoles() {
		if role.Name == access.Enroll || role.Name == access.Edit {
			rights = append(rights, role.Rules...)
		}
	}
	_, person, err := w.plane.Account(w.Context(), dir, "person", rights)
	w.must(err)
	_, callout, err := w.plane.Account(w.Context(), dir, "callout", roster.CalloutRules())
	w.must(err)
	w.variables = append(w.variables, "KUBECONFIG="+person, "FLEET_NAMESPACE=default")
	w.published = true
	c.Roster.Enabled, c.LeaderElection.Namespace = true, "default"
	c.Publish = config.PublishSection{ConfigMap: config.PublishedName, NATSURL: w.broker.URL(), CAFile: w.broker.NATS().CAFile}
	replica := func(name string) (string, string, error) { return auth.Replica(w.broker.Callout(), dir, name) }
	return replica, []string{"KUBECONFIG=" + callout}
}

// startOperator runs the operator in this process, for the sake of its clock.
func (w *world) startOperator(c config.OperatorConfig) {
	w.Helper()
	c.NATS, c.Credentials, c.Signing = w.broker.NATS(), w.broker.Operator(), w.broker.Signing()
	c.LeaderElection.Enabled = false
	c.MetricsAddress, c.ProbeAddress = "0", "0"
	rules := slices.Concat(operator.ClusterRules(), operator.LeaseRules(), publish.Rules(config.PublishedName))
	account, _, err := w.plane.Account(w.Context(), w.TempDir(), "operator", rules)
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var log bytes.Buffer
	var running sync.WaitGroup
	running.Go(func() {
		if err := operator.Run(ctx, account, c, operator.Options{
			Log: logr.FromSlogHandler(slog.NewTextHandler(&log, nil)), Version: "test", Metrics: prometheus.NewRegistry(),
			Now: func() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) },
		}); err != nil {
			w.Errorf("the operator ended: %v", err)
		}
	})
	w.Cleanup(func() {
		cancel()
		running.Wait()
		if w.Failed() {
			w.Logf("the operator's log:\n%s", &log)
		}
	})
}

// running is a program at work.
type running struct {
	*process.Process
	w *world
}

// run starts a program, until the test ends.
func (w *world) run(spec process.Spec, name string) running {
	w.Helper()
	spec.Log = filepath.Join(w.TempDir(), "log")
	p, err := process.Start(spec)
	w.must(err)
	w.Cleanup(func() {
		p.Stop(0)
		if w.Failed() {
			w.Logf("%s:\n%s", name, p.LogTail(100))
		}
	})
	return running{p, w}
}

func (r running) ready(url string) {
	r.w.Helper()
	r.w.must(r.WaitReady(r.w.Context(), func(ctx context.Context) error { return process.Answers(ctx, url) }))
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// eventually waits until check passes.
func (w *world) eventually(what string, check func() error) {
	w.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			w.Fatalf("%s: not within %s: %v", what, patience, err)
		}
	}
}

// fleet is `kubectl fleet` as a person runs it; it returns standard output.
func (w *world) fleet(args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(w.Context(), filepath.Join(w.bin, "kubectl-fleet"), args...)
	cmd.Env = append(os.Environ(), w.variables...)
	if !w.published || !strings.HasSuffix(args[0], "enroll") {
		cmd.Env = append(cmd.Env, w.told...)
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl fleet %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// says fails as long as `kubectl fleet` does not say the words, or says others.
func (w *world) says(words string, not string, args ...string) error {
	out, err := w.fleet(args...)
	if err != nil {
		return err
	}
	if !strings.Contains(out, words) || not != "" && strings.Contains(out, not) {
		return fmt.Errorf("want %q and not %q in:\n%s", words, not, out)
	}
	return nil
}

// machine is a computer with podman that is to be a device.
type machine struct {
	w      *world
	dir    string // for what is below /etc and /var
	podman *podman.Service
}

// newMachine makes one whose owner says that it has the label.
func (w *world) newMachine(group string) *machine {
	w.Helper()
	m := &machine{w: w, dir: w.TempDir()}
	var err error
	m.podman, err = podman.Start(w.Context(), podman.Options{Name: "enrol", Progress: w.Output()})
	w.must(err)
	w.Cleanup(func() { w.must(m.podman.Stop()) })
	own := fmt.Sprintf("[agent]\nstate_dir = %q\n[podman]\nsocket = %q\npoll_interval = \"1s\"\n[labels]\ngroup = %q\n",
		filepath.Join(m.dir, "state"), m.podman.Socket(), group)
	w.must(os.Mkdir(filepath.Join(m.dir, "conf.d"), 0o700))
	w.must(os.WriteFile(filepath.Join(m.dir, "conf.d", "own.toml"), []byte(own), 0o600))
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

// join runs the command that `kubectl fleet enroll` printed, in a shell.
func (m *machine) join(command string) (string, error) {
	cmd := exec.CommandContext(m.w.Context(), "sh", "-c", command)
	cmd.Env = append(os.Environ(), "FLEET_AGENT_CONFIG="+m.path("config.toml"), "PATH="+m.w.bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// start runs the agent.
func (m *machine) start() running {
	m.w.Helper()
	return m.w.run(process.Spec{Path: filepath.Join(m.w.bin, "fleet-agent"), Args: []string{"--config", m.path("config.toml")}}, "fleet-agent")
}

// refused is nil when the broker refuses the device.
func (m *machine) refused() error {
	cmd := exec.CommandContext(m.w.Context(), filepath.Join(m.w.bin, "fleet-agent"), "check", "--config", m.path("config.toml"))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "refused the login") {
		return errors.New(string(out))
	}
	return nil
}
