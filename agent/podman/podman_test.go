package podman

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const device = wire.DeviceID("pi-1")

// fixture is a real podman with a registry of the hello image.
type fixture struct {
	*testing.T
	service  *podman.Service
	registry *registry.Registry
	client   *Client
}

func start(t *testing.T, o podman.Options) fixture {
	t.Helper()
	service, err := podman.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Stop(); err != nil {
			t.Error(err)
		}
	})
	images := serve(t)
	client, err := Connect(t.Context(), service.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return fixture{t, service, images, client}
}

// serve runs a registry with hello:1, hello:2 and wrong:1, which is for another machine.
func serve(t *testing.T) *registry.Registry {
	t.Helper()
	r, err := registry.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	hello, err := images.Hello("1")
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := images.WrongArch("1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Push("hello:1", hello); err != nil {
		t.Fatal(err)
	}
	other, err := images.Hello("2")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Push("hello:2", other); err != nil {
		t.Fatal(err)
	}
	if err := r.Push("wrong:1", wrong); err != nil {
		t.Fatal(err)
	}
	return r
}

func (f fixture) step(svc score.Service) reconcile.Step {
	if svc.Image == "" {
		svc.Image = f.registry.Ref("hello:1")
	}
	id := wire.DeploymentID{Namespace: "shop", Name: "web"}
	return reconcile.Step{
		Key:     reconcile.Key{Deployment: id, Service: svc.Name},
		Service: reconcile.Service{Spec: svc, Digest: svc.Digest()},
	}
}

// run carries out the actions one after the other and stops at the first that
// fails.
func (f fixture) run(step reconcile.Step, actions ...reconcile.Action) reconcile.Outcome {
	f.Helper()
	var outcome reconcile.Outcome
	for _, step.Action = range actions {
		step.Container = f.find(step)
		if outcome = f.client.Do(f.Context(), device, step); outcome.Err != nil {
			return outcome
		}
	}
	return outcome
}

func (f fixture) must(step reconcile.Step, actions ...reconcile.Action) reconcile.Outcome {
	f.Helper()
	outcome := f.run(step, actions...)
	if outcome.Err != nil {
		f.Fatal(outcome.Err)
	}
	return outcome
}

// find is the container of the step's service; zero when there is none.
func (f fixture) find(step reconcile.Step) reconcile.Container {
	f.Helper()
	list, err := f.client.List(f.Context(), device)
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range list {
		if c.Key == step.Key && c.Digest == step.Service.Digest {
			return c
		}
	}
	return reconcile.Container{}
}

func TestFailuresHaveTheirTrueReason(t *testing.T) {
	f := start(t, podman.Options{})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	port := int32(taken.Addr().(*net.TCPAddr).Port)
	cases := map[string]struct {
		service score.Service
		action  reconcile.Action // the one that fails
		reason  string
		says    string
	}{
		"unknown tag":    {score.Service{Image: f.registry.Ref("hello:none")}, reconcile.Pull, reconcile.ReasonImagePullFailed, "manifest unknown"},
		"no registry":    {score.Service{Image: "127.0.0.1:1/hello:1"}, reconcile.Pull, reconcile.ReasonImagePullFailed, "refused"},
		"short name":     {score.Service{Image: "hello"}, reconcile.Pull, reconcile.ReasonImagePullFailed, "short-name"},
		"another arch":   {score.Service{Image: f.registry.Ref("wrong:1")}, reconcile.Pull, reconcile.ReasonWrongArchitecture, "this device is"},
		"missing path":   {score.Service{Volumes: []score.Volume{{ContainerPath: "/data", HostPath: "/nonexistent/data"}}}, reconcile.Create, reconcile.ReasonVolumeMissing, "/nonexistent/data"},
		"port taken":     {score.Service{Ports: []score.Port{{ContainerPort: 8080, HostPort: port, HostIP: "127.0.0.1"}}}, reconcile.Start, reconcile.ReasonPortInUse, fmt.Sprint(port)},
		"no such binary": {score.Service{Command: []string{"/bin/absent"}}, reconcile.Start, reconcile.ReasonCommandNotFound, "/bin/absent"},
		"too little":     {score.Service{Resources: &score.Resources{Memory: "1024"}}, reconcile.Start, reconcile.ReasonLimitRefused, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f.T = t
			c.service.Name = strings.ReplaceAll(name, " ", "-")
			step := f.step(c.service)
			var before []reconcile.Action
			for _, action := range []reconcile.Action{reconcile.Pull, reconcile.Create, reconcile.Start} {
				if action == c.action {
					break
				}
				before = append(before, action)
			}
			f.must(step, before...)
			outcome := f.run(step, c.action)
			if outcome.Err == nil {
				t.Fatalf("%s succeeded", c.action)
			}
			if outcome.Err.Reason != c.reason || !strings.Contains(outcome.Err.Message, c.says) {
				t.Errorf("got %s: %s\nwant %s with %q", outcome.Err.Reason, outcome.Err.Message, c.reason, c.says)
			}
		})
	}
}

func TestLifeOfAContainer(t *testing.T) {
	t.Run("Rootful", func(t *testing.T) {
		live(start(t, podman.Options{}), &score.Resources{CPU: "500m", Memory: "64Mi"})
	})
	// Limits of a user need a systemd that delegates cgroups version 2.
	t.Run("Rootless", func(t *testing.T) { live(start(t, podman.Options{Rootless: true}), nil) })
}

// live takes one container through all of its life.
func live(f fixture, limits *score.Resources) {
	t := f.T
	bind := t.TempDir()
	if err := os.Chmod(filepath.Dir(bind), 0o755); err != nil { // it lies in a folder of root's
		t.Fatal(err)
	}
	grace := int32(1)
	port, err := process.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	step := f.step(score.Service{
		Name: "web", Args: []string{"-ignore-term"}, Env: []score.EnvVar{{Name: "A", Value: "b c"}},
		Volumes:                []score.Volume{{ContainerPath: "/bind", HostPath: bind, ReadOnly: true}, {ContainerPath: "/data", Volume: "data"}},
		Ports:                  []score.Port{{ContainerPort: images.Port, HostPort: int32(port), HostIP: "127.0.0.1"}},
		Resources:              limits,
		HealthCheck:            &score.HealthCheck{Command: []string{"/hello", "-check", "http://127.0.0.1:8080/"}},
		StopGracePeriodSeconds: &grace,
	})
	f.must(step, reconcile.Pull, reconcile.Create)
	if c := f.find(step); c.State != reconcile.Created || c.Created.IsZero() {
		t.Errorf("after create: %+v", c)
	}
	f.must(step, reconcile.Start)
	started := f.find(step)
	if started.State != reconcile.Running || time.Since(started.Started) > time.Minute {
		t.Errorf("after start: %+v", started)
	}
	if timers, err := f.service.Run(t.Context(), "inspect", "--format={{.HostConfig.RestartPolicy.Name}} {{.Config.StopTimeout}}", started.ID); err != nil || strings.TrimSpace(timers) != "no 1" {
		t.Errorf("restart policy and grace: %q, %v", timers, err)
	}
	time.Sleep(time.Second)
	if got := f.must(step, reconcile.Check); !got.Health.OK {
		t.Errorf("health: %+v", got.Health)
	}
	answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("the published port: %v, %v", answer, err)
	} else {
		answer.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	logs, err := f.client.Logs(t.Context(), device, wire.LogsRequest{Namespace: "shop", Deployment: "web", Lines: 10})
	if err != nil || len(logs) != 1 || !strings.Contains(strings.Join(logs[0].Lines, "\n"), "serving on port 8080") {
		t.Errorf("logs: %+v, %v", logs, err)
	}
	begin := time.Now()
	f.must(step, reconcile.Stop)
	if took := time.Since(begin); took < time.Second || took > 10*time.Second {
		t.Errorf("stopped a container that ignores SIGTERM in %s", took)
	}
	stopped := f.find(step)
	if stopped.State != reconcile.Exited || stopped.ExitCode != 137 || stopped.Exited.Before(stopped.Started) {
		t.Errorf("after stop: %+v", stopped)
	}
	if got := f.must(step, reconcile.Examine); !strings.Contains(got.Exit.Tail, "ignoring SIGTERM") {
		t.Errorf("examined: %+v", got.Exit)
	}
	f.must(step, reconcile.Remove)
	if c := f.find(step); c.ID != "" {
		t.Errorf("after remove: %+v", c)
	}
	gone := step
	gone.Action, gone.Container = reconcile.Remove, stopped
	if got := f.client.Do(t.Context(), device, gone); got.Err != nil {
		t.Errorf("removing what is gone: %v", got.Err)
	}
}

func TestHealthCheckThatFails(t *testing.T) {
	f := start(t, podman.Options{})
	for name, c := range map[string]struct {
		check score.HealthCheck
		says  string
	}{
		"refused": {score.HealthCheck{Command: []string{"/hello", "-check", "http://127.0.0.1:1/"}}, "refused"},
		"absent":  {score.HealthCheck{Command: []string{"/absent"}}, "absent"},
	} {
		t.Run(name, func(t *testing.T) {
			f.T = t
			step := f.step(score.Service{Name: name, HealthCheck: &c.check})
			f.must(step, reconcile.Pull, reconcile.Create, reconcile.Start)
			outcome := f.run(step, reconcile.Check)
			if outcome.Health.OK || outcome.Err != nil || !strings.Contains(outcome.Health.Output, c.says) {
				t.Errorf("got %+v", outcome)
			}
		})
	}
}

func TestConnectSaysWhatToDo(t *testing.T) {
	_, err := Connect(t.Context(), "unix:///nonexistent/podman.sock")
	if err == nil || !strings.Contains(err.Error(), "systemctl enable --now podman.socket") {
		t.Errorf("no socket: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	_, err = Connect(t.Context(), "unix:///nonexistent/podman.sock")
	if err == nil || !strings.Contains(err.Error(), "podman is not installed; install podman 4.3 or newer, and run: systemctl enable --now podman.socket") {
		t.Errorf("no podman: %v", err)
	}
	_, err = Connect(t.Context(), odd(t, "4.2.0"))
	if err == nil || !strings.Contains(err.Error(), "podman 4.2.0 is too old; install podman 4.3 or newer") {
		t.Errorf("old podman: %v", err)
	}
}

// odd is a podman that says its version and then hangs.
func odd(t *testing.T, version string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "podman.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Header().Set("Libpod-API-Version", version)
			return
		}
		<-r.Context().Done()
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // ends with the test
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return "unix://" + socket
}

func TestPodmanThatHangs(t *testing.T) {
	client, err := Connect(t.Context(), odd(t, "5.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	step := reconcile.Step{Action: reconcile.Check, Container: reconcile.Container{ID: "1"}}
	step.Service.Spec.HealthCheck = &score.HealthCheck{Command: []string{"/check"}, TimeoutSeconds: 1}
	if got := client.Do(t.Context(), device, step); got.Err != nil || !got.Health.TimedOut {
		t.Errorf("check: %+v", got)
	}
	_, err = client.do(t.Context(), call{doing: "waiting", method: http.MethodGet, path: "/info", timeout: 100 * time.Millisecond}, nil)
	var f *reconcile.Failure
	if !errors.As(err, &f) || f.Reason != reconcile.ReasonPodmanTimeout || !strings.Contains(f.Message, "100ms while waiting") {
		t.Errorf("call: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := client.Do(ctx, device, reconcile.Step{Action: reconcile.Start}); got.Err == nil {
		t.Error("a cancelled step succeeded")
	}
}

func TestHostFacts(t *testing.T) {
	f := start(t, podman.Options{})
	if v, err := f.client.Version(t.Context()); err != nil || !strings.Contains(v, ".") {
		t.Errorf("version %q, %v", v, err)
	}
	if n, err := f.client.DiskBytes(t.Context()); err != nil || n < 1<<20 {
		t.Errorf("disk %d, %v", n, err)
	}
}
