package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/procfs"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/kube"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
)

// stack is the real thing: a control plane, a broker and the operator, each a
// process of its own.
type stack struct {
	dir      string
	plane    *kube.ControlPlane
	broker   *broker.Process
	operator *process.Process
	client   client.WithWatch
	// Addresses of the operator's health checks and profiles.
	probes, profiles string
}

const operatorNamespace = "fleet-system"

// startStack starts all but the operator.
func startStack(ctx context.Context, o Options) (_ *stack, err error) {
	s := &stack{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "fleet-load-"); err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	if err := programs.Build(ctx, s.dir, "", programs.Operator); err != nil {
		return nil, err
	}
	if s.plane, err = kube.Start(ctx, kube.Options{Dir: filepath.Join(s.dir, "kube"), Fsync: true, Progress: o.Out}); err != nil {
		return nil, err
	}
	if err := kube.InstallCRDs(ctx, s.plane.Config(), crds.All()); err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	if s.client, err = client.NewWithWatch(s.plane.Config(), client.Options{Scheme: scheme}); err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	for _, name := range []string{namespace, operatorNamespace} {
		if err := s.client.Create(ctx, namespaceResource(name)); err != nil {
			return nil, fmt.Errorf("creating namespace %q: %w", name, err)
		}
	}
	store := filepath.Join(s.dir, "broker")
	if err := os.Mkdir(store, 0o700); err != nil {
		return nil, err
	}
	s.broker, err = broker.StartProcess(ctx, broker.Options{Dir: store, SyncAlways: o.SyncAlways})
	return s, err
}

// startOperator starts the operator and returns when it is ready.
func (s *stack) startOperator(ctx context.Context, o Options) error {
	c := config.OperatorDefaults()
	c.NATS, c.Credentials, c.Signing = s.broker.NATS(), s.broker.Operator(), s.broker.Signing()
	c.LeaderElection.Namespace = operatorNamespace
	c.Status.PatchesPerSecond = o.Patches
	for _, address := range []*string{&c.MetricsAddress, &c.ProbeAddress, &c.ProfileAddress} {
		port, err := process.FreePort()
		if err != nil {
			return err
		}
		*address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	s.probes, s.profiles = c.ProbeAddress, c.ProfileAddress
	file, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encoding the operator's configuration: %w", err)
	}
	path := filepath.Join(s.dir, "operator.yaml")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		return fmt.Errorf("writing the operator's configuration: %w", err)
	}
	s.operator, err = process.Start(process.Spec{
		Path: filepath.Join(s.dir, "fleet-operator"),
		Args: []string{"--config", path, "--kubeconfig", s.plane.Kubeconfig()},
		Log:  filepath.Join(s.dir, "operator.log"),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return s.operator.WaitReady(ctx, func(ctx context.Context) error {
		_, err := get(ctx, "http://"+s.probes+"/readyz")
		return err
	})
}

// stop ends all processes and removes what they stored.
func (s *stack) stop() error {
	if s.operator != nil {
		s.operator.Stop(10 * time.Second)
	}
	if s.broker != nil {
		s.broker.Stop()
	}
	var err error
	if s.plane != nil {
		err = s.plane.Stop()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// died is the failure of the operator when it ended by itself.
func (s *stack) died() error { return s.operator.Failure() }

// usage is what a process took.
type usage struct {
	name          string
	resident      uint64  // bytes now
	residentPeak  uint64  // bytes at most so far
	cpuSeconds    float64 // since its start
	coresInWrites float64 // mean while states were written; filled in later
}

func (s *stack) usage() ([]usage, error) {
	pids := s.plane.PIDs()
	pids["nats-server"], pids["fleet-operator"], pids["simulator"] = s.broker.PID(), s.operator.PID(), os.Getpid()
	var all []usage
	for _, name := range []string{"fleet-operator", "nats-server", "kube-apiserver", "etcd", "simulator"} {
		p, err := procfs.NewProc(pids[name])
		if err != nil {
			return nil, fmt.Errorf("measuring %s: %w", name, err)
		}
		status, err := p.NewStatus()
		if err != nil {
			return nil, fmt.Errorf("measuring %s: %w", name, err)
		}
		stat, err := p.Stat()
		if err != nil {
			return nil, fmt.Errorf("measuring %s: %w", name, err)
		}
		all = append(all, usage{name: name, resident: status.VmRSS, residentPeak: status.VmHWM, cpuSeconds: stat.CPUTime()})
	}
	return all, nil
}

// profile writes a CPU profile of the operator over the next seconds to a file.
func (s *stack) profile(ctx context.Context, file string, seconds int) error {
	data, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.profiles, seconds))
	if err != nil {
		return fmt.Errorf("profiling the operator: %w", err)
	}
	return os.WriteFile(file, data, 0o644)
}

// get reads a URL; an answer other than 200 is an error.
func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, bytes.TrimSpace(body))
	}
	return body, err
}
