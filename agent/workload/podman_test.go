package workload_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/agent/hold"
	agentpodman "github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/agent/workload"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

var web = wire.DeploymentID{Namespace: "shop", Name: "web"}

// site is a device with a real podman, a real registry and a manager that may
// be killed and started again.
type site struct {
	*testing.T
	podman     *podman.Service
	registry   *registry.Registry
	stateDir   string
	generation uint64
	retention  time.Duration

	manager *workload.Manager
	kill    func()

	mu      sync.Mutex
	reports []string // of web: phase/reason, or "gone"
}

func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteOn(t, podman.Options{Name: "work"})
}

func newSiteOn(t *testing.T, o podman.Options) *site {
	t.Helper()
	service, err := podman.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Stop() })
	r, err := registry.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	for _, version := range []string{"1", "2"} {
		image, err := images.Hello(version)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Push("hello:"+version, image); err != nil {
			t.Fatal(err)
		}
	}
	wrong, err := images.WrongArch("1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Push("wrong:1", wrong); err != nil {
		t.Fatal(err)
	}
	s := &site{T: t, podman: service, registry: r, stateDir: filepath.Join(t.TempDir(), "state")}
	s.start(nil)
	t.Cleanup(func() { s.kill() })
	return s
}

// start runs a manager from what is on the disk; around, when given, stands
// between it and podman.
func (s *site) start(around func(workload.Runtime) workload.Runtime) {
	s.Helper()
	disk, err := store.Open(s.stateDir)
	if err != nil {
		s.Fatal(err)
	}
	client := agentpodman.New(s.podman.Socket())
	var runtime workload.Runtime = client
	if around != nil {
		runtime = around(client)
	}
	s.manager, err = workload.New(workload.Options{
		Device: "pi-1", Podman: runtime, Store: disk, PollInterval: 500 * time.Millisecond, Log: testr.New(s.T),
		ImageRetention: s.retention,
		Report: func(id wire.DeploymentID, state *wire.DeviceState) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if text := "gone"; id == web {
				if state != nil {
					text = string(state.Phase) + "/" + state.Reason
				}
				s.reports = append(s.reports, text)
			}
		},
	})
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	manager := s.manager
	go func() { ended <- manager.Run(ctx) }()
	s.kill = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.Error(err)
		}
		client.Close()
	})
}

// heard is what was reported since the last call.
func (s *site) heard() (reports []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reports, s.reports = s.reports, nil
	return reports
}

// hello is a service of the hello image.
func (s *site) hello(version string, change ...func(*score.Service)) score.Service {
	svc := score.Service{Name: "app", Image: s.registry.Ref("hello:" + version)}
	for _, c := range change {
		c(&svc)
	}
	return svc
}

// apply makes the services the whole of shop/web; none deletes it.
func (s *site) apply(services ...score.Service) score.Digest {
	s.Helper()
	s.generation++
	d := store.Desired{Generation: s.generation, Deployments: map[wire.DeploymentID]store.Workload{}}
	if len(services) > 0 {
		canonical, err := score.Encode(score.Score{PodmanV0: &score.PodmanV0{Services: services}})
		if err != nil {
			s.Fatal(err)
		}
		d.Deployments[web] = store.Workload{Revision: int64(s.generation), Digest: score.DigestOf(canonical), Score: canonical}
	}
	if err := s.manager.Apply(d); err != nil {
		s.Fatal(err)
	}
	return d.Deployments[web].Digest
}

// reaches waits until the state of shop/web has the phase and reason for the
// digest.
func (s *site) reaches(digest score.Digest, phase wire.Phase, reason string) wire.DeviceState {
	s.Helper()
	var state wire.DeviceState
	s.eventually(fmt.Sprintf("state %s/%s", phase, reason), func() bool {
		state = s.manager.States()[web]
		return state.Digest == digest && state.Phase == phase && state.Reason == reason
	})
	return state
}

func (s *site) eventually(what string, is func() bool) {
	s.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("waited in vain for %s; state %+v", what, s.manager.States()[web])
		}
	}
}

// ps lists containers as "name Up" or "name Exited", without the digest in the
// name.
func (s *site) ps() []string {
	s.Helper()
	out, err := s.podman.Run(s.Context(), "ps", "--all", "--format={{.Names}} {{.State}}")
	if err != nil {
		s.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(out) {
		words := strings.Fields(line) // such as: name Up 2 seconds ago
		name, state := words[0], words[1]
		if i := strings.LastIndex(name, "-"); i > 0 && strings.Count(name, ".") == 2 {
			name = name[:i]
		}
		list = append(list, name+" "+state)
	}
	slices.Sort(list)
	return list
}

func (s *site) mustPS(want ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("containers %q", want), func() bool { return cmp.Equal(s.ps(), want) })
}

func (s *site) run(args ...string) string {
	s.Helper()
	out, err := s.podman.Run(s.Context(), args...)
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func freePort(t *testing.T) int32 {
	t.Helper()
	port, err := process.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return int32(port)
}

func published(port int32) func(*score.Service) {
	return func(svc *score.Service) {
		svc.Ports = []score.Port{{ContainerPort: 8080, HostPort: port, HostIP: "127.0.0.1"}}
	}
}

// answers waits until the port answers with the text.
func (s *site) answers(port int32, want string) {
	s.Helper()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	s.eventually(fmt.Sprintf("port %d answers %q", port, want), func() bool {
		response, err := client.Get("http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return err == nil && strings.TrimSpace(string(body)) == want
	})
}

func TestApplyUpgradeBreakDelete(t *testing.T) {
	s, port := newSite(t), freePort(t)
	s.run("run", "--detach", "--name=somebodys", s.registry.Ref("hello:1"))
	s.run("run", "--detach", "--name=neighbours", "--label=io.nationtech.fleet.managed=true", "--label=io.nationtech.fleet.device=pi-2",
		"--label=io.nationtech.fleet.deployment=shop/web", "--label=io.nationtech.fleet.service=app", s.registry.Ref("hello:1"))
	v1 := s.reaches(s.apply(s.hello("1", published(port))), wire.PhaseSucceeded, reconcile.ReasonRunning)
	s.answers(port, "1")

	v2 := s.reaches(s.apply(s.hello("2", published(port))), wire.PhaseSucceeded, reconcile.ReasonRunning)
	s.answers(port, "2")
	if v1.Containers[0].ID == v2.Containers[0].ID {
		t.Error("the upgrade kept the container")
	}
	s.mustPS("neighbours Up", "shop.web.app Up", "somebodys Up")

	for reason, broken := range map[string]score.Service{
		reconcile.ReasonImagePullFailed:   s.hello("none", published(port)),
		reconcile.ReasonWrongArchitecture: s.hello("1", func(svc *score.Service) { svc.Image = s.registry.Ref("wrong:1") }),
		reconcile.ReasonVolumeMissing: s.hello("1", published(port), func(svc *score.Service) {
			svc.Volumes = []score.Volume{{ContainerPath: "/data", HostPath: "/nonexistent/data"}}
		}),
	} {
		state := s.reaches(s.apply(broken), wire.PhaseFailed, reason)
		if diff := cmp.Diff(v2.Containers, state.Containers); diff != "" {
			t.Errorf("%s: the old container does not run on (- want, + got):\n%s", reason, diff)
		}
		t.Logf("%s: %s", reason, state.Message)
	}
	s.answers(port, "2")

	s.apply()
	s.mustPS("neighbours Up", "somebodys Up")
	s.eventually("the end is reported", func() bool { return slices.Contains(s.heard(), "gone") })
}

func TestPortTaken(t *testing.T) {
	s := newSite(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	port := int32(listener.Addr().(*net.TCPAddr).Port)
	digest := s.apply(s.hello("1", published(port)))
	state := s.reaches(digest, wire.PhaseFailed, reconcile.ReasonPortInUse)
	if !strings.Contains(state.Message, fmt.Sprint(port)) {
		t.Errorf("message %q does not name the port", state.Message)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	s.reaches(digest, wire.PhaseSucceeded, reconcile.ReasonRunning)
}

// What runs as it should is left alone: by ticks, by a new agent, by a podman
// service that goes away, and by a change of its neighbour.
func TestUnchangedContainerIsLeftAlone(t *testing.T) {
	s := newSite(t)
	bind := t.TempDir()
	if err := os.WriteFile(filepath.Join(bind, "x"), []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	rich := s.hello("1", func(svc *score.Service) {
		svc.Env = []score.EnvVar{{Name: "A", Value: "b $c"}}
		svc.Volumes = []score.Volume{{ContainerPath: "/bind", HostPath: bind, ReadOnly: true}, {ContainerPath: "/data", Volume: "data"}}
		svc.Resources = &score.Resources{Memory: "64Mi"}
	})
	neighbour := s.hello("1", func(svc *score.Service) { svc.Name = "neighbour" })
	digest := s.apply(rich, neighbour)
	first := s.reaches(digest, wire.PhaseSucceeded, reconcile.ReasonRunning)
	started := s.run("inspect", "--format={{.State.StartedAt}}", first.Containers[0].ID)
	same := func(when string) {
		t.Helper()
		if got := s.run("inspect", "--format={{.State.StartedAt}}", first.Containers[0].ID); got != started {
			t.Errorf("%s: restarted", when)
		}
	}
	time.Sleep(1700 * time.Millisecond)
	same("after three ticks")

	s.kill()
	s.heard()
	s.start(nil)
	second := s.reaches(digest, wire.PhaseSucceeded, reconcile.ReasonRunning)
	time.Sleep(time.Second)
	if diff := cmp.Diff([]string{"Succeeded/Running"}, s.heard()); diff != "" {
		t.Errorf("a new agent reports (- want, + got):\n%s", diff)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("the state changed (- want, + got):\n%s", diff)
	}
	same("after a new agent")

	s.podman.StopService()
	state := s.reaches(digest, wire.PhaseFailed, reconcile.ReasonPodmanUnavailable)
	if !strings.Contains(state.Message, "podman") {
		t.Errorf("message %q", state.Message)
	}
	if err := s.podman.StartService(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.reaches(digest, wire.PhaseSucceeded, reconcile.ReasonRunning)
	same("after a stop of podman's service")

	neighbour.Env = []score.EnvVar{{Name: "NEW", Value: "1"}}
	third := s.reaches(s.apply(rich, neighbour), wire.PhaseSucceeded, reconcile.ReasonRunning)
	if third.Containers[0] != first.Containers[0] || third.Containers[1] == first.Containers[1] {
		t.Errorf("after a change of the neighbour: %v, was %v", third.Containers, first.Containers)
	}
	same("after a change of the neighbour")
	s.mustPS("shop.web.app Up", "shop.web.neighbour Up")
}

// A held device keeps what it runs, through the end of a container and of the agent,
// and follows afterwards.
func TestHeld(t *testing.T) {
	s := newSite(t)
	first := s.reaches(s.apply(s.hello("1")), wire.PhaseSucceeded, reconcile.ReasonRunning)
	disk, err := store.Open(s.stateDir)
	if err != nil {
		t.Fatal(err)
	}
	h, err := hold.New(time.Now(), time.Hour, wire.HeldByDevice)
	if err == nil {
		err = disk.SaveHold(h)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("the hold", func() bool { return s.manager.Hold() != nil })
	second := s.apply(s.hello("2"))
	s.reaches(second, wire.PhasePending, reconcile.ReasonHeld)
	s.run("kill", "--signal=KILL", first.Containers[0].ID)
	s.kill()
	s.start(nil)
	state := wire.DeviceState{}
	s.eventually("a restart", func() bool {
		state = s.manager.States()[web]
		return state.Digest == second && cmp.Equal(state.Containers, first.Containers)
	})
	if state.Phase != wire.PhasePending || state.Reason != reconcile.ReasonHeld || state.Message != h.String() {
		t.Errorf("state %+v", state)
	}
	s.mustPS("shop.web.app Up")
	if err := disk.RemoveHold(h); err != nil {
		t.Fatal(err)
	}
	s.reaches(second, wire.PhaseSucceeded, reconcile.ReasonRunning)
	s.mustPS("shop.web.app Up")
}

func TestKilledContainerIsStartedAgain(t *testing.T) {
	s := newSite(t)
	digest := s.apply(s.hello("1"))
	state := s.reaches(digest, wire.PhaseSucceeded, reconcile.ReasonRunning)
	s.run("kill", "--signal=KILL", state.Containers[0].ID)
	s.eventually("a restart", func() bool {
		return s.run("inspect", "--format={{.State.Running}} {{.RestartCount}}", state.Containers[0].ID) == "true 0" &&
			s.manager.States()[web].Phase == wire.PhaseSucceeded
	})
	if again := s.reaches(digest, wire.PhaseSucceeded, reconcile.ReasonRunning); again.Containers[0] != state.Containers[0] {
		t.Errorf("another container: %v, was %v", again.Containers, state.Containers)
	}
}

func TestHowContainersEnd(t *testing.T) {
	s := newSite(t)
	ends := func(code int, policy score.RestartPolicy) score.Service {
		return s.hello("1", func(svc *score.Service) {
			svc.Args, svc.RestartPolicy = []string{"-exit-after=10ms", fmt.Sprint("-exit-code=", code)}, policy
		})
	}
	s.reaches(s.apply(ends(0, score.RestartNever)), wire.PhaseSucceeded, reconcile.ReasonCompleted)
	s.reaches(s.apply(ends(0, score.RestartOnFailure)), wire.PhaseSucceeded, reconcile.ReasonCompleted)
	state := s.reaches(s.apply(ends(3, score.RestartNever)), wire.PhaseFailed, reconcile.ReasonExited)
	if !strings.Contains(state.Message, "exit code 3: ") {
		t.Errorf("message %q", state.Message)
	}
	state = s.reaches(s.apply(ends(7, score.RestartAlways)), wire.PhaseFailed, reconcile.ReasonCrashLoop)
	for _, part := range []string{"exit code 7", "restarted 2 times", "hello: ending with code 7"} {
		if !strings.Contains(state.Message, part) {
			t.Errorf("message %q lacks %q", state.Message, part)
		}
	}
	if reports := s.heard(); slices.Contains(reports, "Succeeded/Running") {
		t.Errorf("reports of containers that end at once: %q", reports)
	}
}

func TestHealth(t *testing.T) {
	s := newSite(t)
	checked := func(path string) score.Service {
		return s.hello("1", func(svc *score.Service) {
			svc.HealthCheck = &score.HealthCheck{Command: []string{"/hello", "-check", "http://127.0.0.1:8080" + path}, IntervalSeconds: 1, Retries: 2}
		})
	}
	healthy := s.reaches(s.apply(checked("/")), wire.PhaseSucceeded, reconcile.ReasonRunning)
	state := s.reaches(s.apply(checked("/absent")), wire.PhaseFailed, reconcile.ReasonUnhealthy)
	if !strings.Contains(state.Message, "404") {
		t.Errorf("message %q", state.Message)
	}
	if cmp.Equal(healthy.Containers, state.Containers) {
		t.Error("the old container still runs")
	}
	s.mustPS("shop.web.app Exited", "shop.web.app Up")
	back := s.reaches(s.apply(checked("/")), wire.PhaseSucceeded, reconcile.ReasonRunning)
	if !cmp.Equal(healthy.Containers, back.Containers) {
		t.Errorf("an undo made %v, was %v", back.Containers, healthy.Containers)
	}
	s.mustPS("shop.web.app Up")
}

// Images that the agent pulled go when nothing uses them, and those of others stay. The
// version before the wanted one is kept, through a new agent too.
func TestOldImagesGo(t *testing.T) {
	s := newSite(t)
	s.kill()
	s.retention = time.Millisecond
	s.start(nil)
	mine, somebodys := s.registry.Ref("hello:2"), s.registry.Ref("hello:1")
	s.run("pull", somebodys)
	images := func() (names []string) {
		out := s.run("images", "--format={{.Repository}}:{{.Tag}}")
		return strings.Fields(out)
	}
	for _, version := range []string{"1", "2", "1"} {
		s.reaches(s.apply(s.hello(version)), wire.PhaseSucceeded, reconcile.ReasonRunning)
		s.mustPS("shop.web.app Up")
	}
	s.kill()
	s.start(nil)
	time.Sleep(2 * time.Second) // four looks
	if got := images(); !slices.Contains(got, mine) || !slices.Contains(got, somebodys) {
		t.Fatalf("the version before is not kept: %q", got)
	}
	s.apply()
	s.eventually("the image goes", func() bool { return !slices.Contains(images(), mine) })
	if got := images(); !slices.Contains(got, somebodys) {
		t.Errorf("somebody's image is gone: %q", got)
	}
	disk, err := store.Open(s.stateDir)
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("the image is forgotten", func() bool {
		left, err := disk.LoadImages()
		return err == nil && len(left) == 0
	})
}

// cutter ends the agent at its nth step, before or after podman carried it out.
type cutter struct {
	workload.Runtime
	mu    sync.Mutex
	left  int
	after bool
	cut   chan struct{}
}

func (c *cutter) Do(ctx context.Context, device wire.DeviceID, step reconcile.Step) reconcile.Outcome {
	c.mu.Lock()
	c.left--
	now := c.left == 0
	c.mu.Unlock()
	if now && !c.after {
		close(c.cut)
		<-ctx.Done()
		return reconcile.Outcome{Err: &reconcile.Failure{Message: "cut"}}
	}
	outcome := c.Runtime.Do(ctx, device, step)
	if now {
		close(c.cut)
		<-ctx.Done()
	}
	return outcome
}

// The agent is killed between any two steps of an upgrade, and after it: the next
// one always ends with the new version alone.
func TestAgentKilledBetweenAnyTwoSteps(t *testing.T) {
	s := newSite(t)
	version := map[bool]string{true: "1", false: "2"}
	turn := false
	port := freePort(t)
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			c := &cutter{left: n, after: after, cut: make(chan struct{})}
			s.kill()
			s.start(func(r workload.Runtime) workload.Runtime { c.Runtime = r; return c })
			turn = !turn
			digest := s.apply(s.hello(version[turn], published(port), func(svc *score.Service) {
				svc.Env = []score.EnvVar{{Name: "ROUND", Value: fmt.Sprint(after, n)}}
			}))
			done := false
			s.eventually("the cut or the end", func() bool {
				select {
				case <-c.cut:
					return true
				default:
					done = s.manager.States()[web].Digest == digest && s.manager.States()[web].Phase == wire.PhaseSucceeded
					return done
				}
			})
			s.kill()
			s.start(nil)
			s.reaches(digest, wire.PhaseSucceeded, reconcile.ReasonRunning)
			s.answers(port, version[turn])
			s.mustPS("shop.web.app Up")
			if done {
				t.Logf("after=%v: %d steps", after, n-1)
				break
			}
		}
	}
}
