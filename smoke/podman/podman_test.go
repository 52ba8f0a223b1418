package podman

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("PODMAN_TEST_ABANDON"); dir != "" {
		abandon(dir)
	}
	goleak.VerifyTestMain(m)
}

// start runs a service that ends with the test.
func start(t *testing.T, name string) *Service {
	t.Helper()
	s, err := Start(t.Context(), Options{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dir := s.dir
		for range 2 {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	})
	return s
}

// pushHello serves the hello image and returns its reference.
func pushHello(t *testing.T, version string) string {
	t.Helper()
	r, err := registry.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	image, err := images.Hello(version)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Push("hello:"+version, image); err != nil {
		t.Fatal(err)
	}
	return r.Ref("hello:" + version)
}

func run(t *testing.T, s *Service, args ...string) string {
	t.Helper()
	out, err := s.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func freePort(t *testing.T) string {
	t.Helper()
	port, err := process.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(port)
}

// get asks a published port, which may take a moment to answer.
func get(t *testing.T, port, path string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Second}
	body := ""
	eventually(t, "port "+port+" answers", func() bool {
		response, err := client.Get("http://" + net.JoinHostPort("127.0.0.1", port) + path)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		content, err := io.ReadAll(response.Body)
		body = strings.TrimSpace(string(content))
		return err == nil
	})
	return body
}

// Two devices on one host: neither sees, nor takes down, what the other runs.
func TestTwoServicesSideBySide(t *testing.T) {
	image := pushHello(t, "v1")
	services := []*Service{start(t, "one"), start(t, "two")}
	ports := []string{freePort(t), freePort(t)}
	var group sync.WaitGroup
	for i, s := range services {
		group.Go(func() {
			if _, err := s.Run(t.Context(), "run", "--detach", "--name=web", "--publish=127.0.0.1:"+ports[i]+":8080", "--env=VERSION="+s.dir, image); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for i, s := range services {
		if got := get(t, ports[i], "/"); got != s.dir {
			t.Errorf("port %s answers %q, want %q", ports[i], got, s.dir)
		}
		if got := run(t, s, "ps", "--format={{.Names}}"); got != "web" {
			t.Errorf("containers %q, want the service's own only", got)
		}
	}
	run(t, services[0], "rm", "--force", "--time=0", "web")
	if got := get(t, ports[1], "/"); got != services[1].dir {
		t.Errorf("after the other service removed its container, port %s answers %q", ports[1], got)
	}
}

func TestContainerFeatures(t *testing.T) {
	image, s, port := pushHello(t, "v1"), start(t, "features"), freePort(t)
	bind := t.TempDir()
	if err := os.WriteFile(filepath.Join(bind, "file"), []byte("from the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, s, "run", "--detach", "--name=web", "--publish="+port+":9000", "--env=PORT=9000", "--env=COLOUR=green",
		"--volume="+bind+":/bind:ro", "--volume=data:/data", "--memory=64m",
		`--health-cmd=["/hello","-check","http://127.0.0.1:9000/"]`, "--health-interval=1s", image)

	if got := get(t, port, "/env?name=COLOUR"); got != "green" {
		t.Errorf("COLOUR is %q", got)
	}
	if got := get(t, port, "/file?path=/bind/file"); got != "from the host" {
		t.Errorf("the bind mount shows %q", got)
	}
	if got := run(t, s, "volume", "ls", "--quiet"); got != "data" {
		t.Errorf("volumes %q", got)
	}
	if got := run(t, s, "logs", "web"); !strings.Contains(got, "version v1 serving on port 9000") {
		t.Errorf("logs %q", got)
	}
	if got := run(t, s, "exec", "web", "/hello", "-check", "http://127.0.0.1:9000/"); !strings.Contains(got, "200 OK") {
		t.Errorf("exec printed %q", got)
	}
	run(t, s, "healthcheck", "run", "web")
	if got := run(t, s, "inspect", "--format={{.State.Health.Status}}", "web"); got != "healthy" {
		t.Errorf("health is %q", got)
	}
}

func TestHelloFlags(t *testing.T) {
	image, s := pushHello(t, "v1"), start(t, "flags")
	run(t, s, "run", "--detach", "--name=ends", image, "-exit-after", "100ms", "-exit-code", "7")
	if code := run(t, s, "wait", "ends"); code != "7" {
		t.Errorf("exit code %s, want 7", code)
	}
	for name, tc := range map[string]struct{ flag, code string }{
		"stubborn":  {"-ignore-term", "137"},
		"compliant": {"-ignore-term=false", "0"},
	} {
		run(t, s, "run", "--detach", "--name="+name, image, tc.flag)
		eventually(t, name+" serves", func() bool { return strings.Contains(run(t, s, "logs", name), "serving") })
		run(t, s, "stop", "--time=1", name)
		if code := run(t, s, "inspect", "--format={{.State.ExitCode}}", name); code != tc.code {
			t.Errorf("%s ended with %s, want %s", name, code, tc.code)
		}
	}
}

func TestRestartPolicy(t *testing.T) {
	image, s := pushHello(t, "v1"), start(t, "policy")
	run(t, s, "run", "--detach", "--name=loop", "--restart=on-failure:3", image, "-exit-after", "50ms", "-exit-code", "1")
	eventually(t, "podman restarts the container three times", func() bool {
		return run(t, s, "inspect", "--format={{.RestartCount}} {{.State.Status}}", "loop") == "3 exited"
	})
}

func TestWrongArchitecture(t *testing.T) {
	s := start(t, "arch")
	r, err := registry.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	image, err := images.WrongArch("v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Push("hello:wrong", image); err != nil {
		t.Fatal(err)
	}
	_, err = s.Run(t.Context(), "run", "--rm", r.Ref("hello:wrong"), "-exit-after", "50ms")
	if err == nil {
		t.Skip("the kernel of this host has such programs run by an emulator (binfmt_misc)")
	}
	if !strings.Contains(strings.ToLower(err.Error()), "exec format error") {
		t.Errorf("running a program of another architecture: %v", err)
	}
}

func TestContainersOutliveTheService(t *testing.T) {
	image, s, port := pushHello(t, "v1"), start(t, "outlive"), freePort(t)
	run(t, s, "run", "--detach", "--publish=127.0.0.1:"+port+":8080", image)
	s.StopService()
	if err := s.ping(t.Context()); err == nil || s.PID() != 0 {
		t.Errorf("the service answers after StopService, pid %d", s.PID())
	}
	if got := get(t, port, "/"); got != "v1" {
		t.Errorf("without the service the container answers %q", got)
	}
	if err := s.StartService(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := s.PID()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.PID() == before || s.PID() == 0 {
		t.Errorf("restarted from pid %d to %d", before, s.PID())
	}
	// A container made through the service is like one made without it.
	port = freePort(t)
	out, err := exec.CommandContext(t.Context(), "podman", "--url="+s.Socket(), "run", "--detach", "--publish=127.0.0.1:"+port+":8080",
		`--health-cmd=["/hello","-check","http://127.0.0.1:8080/"]`, image).CombinedOutput()
	if err != nil {
		t.Fatalf("podman --url=%s run: %v\n%s", s.Socket(), err, out)
	}
	if got := get(t, port, "/"); got != "v1" {
		t.Errorf("a container made through the service answers %q", got)
	}
	if got := strings.Fields(run(t, s, "ps", "--quiet")); len(got) != 2 {
		t.Errorf("%d containers run, want 2", len(got))
	}
}

// A pull error must reach the caller, and the next pull succeed.
func TestPullFromABrokenRegistry(t *testing.T) {
	s := start(t, "broken")
	r, err := registry.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	image, err := images.Hello("v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Push("hello:v1", image); err != nil {
		t.Fatal(err)
	}
	for _, fault := range []registry.Fault{registry.Failing, registry.Down} {
		r.Break(fault)
		begin := time.Now()
		if _, err := s.Run(t.Context(), "pull", "--quiet", r.Ref("hello:v1")); err == nil {
			t.Errorf("pulling with fault %d succeeds", fault)
		}
		t.Logf("fault %d reported after %s", fault, time.Since(begin).Round(100*time.Millisecond))
	}
	r.Break(registry.Healthy)
	run(t, s, "pull", "--quiet", r.Ref("hello:v1"))
	if n := r.Pulls("hello"); n < 1 {
		t.Errorf("Pulls() = %d", n)
	}
}

func TestManyContainersAtOnce(t *testing.T) {
	image, s := pushHello(t, "v1"), start(t, "many")
	run(t, s, "pull", "--quiet", image)
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			if _, err := s.Run(t.Context(), "run", "--detach", fmt.Sprintf("--name=c%d", i), image); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got := strings.Fields(run(t, s, "ps", "--quiet")); len(got) != 6 {
		t.Errorf("%d containers run, want 6", len(got))
	}
}

func TestStartRefusesAFolderInUse(t *testing.T) {
	s := start(t, "claimed")
	if _, err := Start(t.Context(), Options{Dir: s.dir}); err == nil {
		t.Fatal("two services share a folder")
	}
	if err := s.ping(t.Context()); err != nil {
		t.Errorf("the refused start harmed the first service: %v", err)
	}
}

func TestStartRefusesALongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", maxRunRoot))
	if _, err := Start(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "characters") {
		t.Errorf("Start() = %v", err)
	}
}

// What a killed test process leaves, the next start of any service removes.
func TestAbandonedServicesAreReaped(t *testing.T) {
	image := pushHello(t, "v1")
	note := filepath.Join(t.TempDir(), "note")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PODMAN_TEST_ABANDON="+note, "PODMAN_TEST_IMAGE="+image)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	eventually(t, "the other process runs a container", func() bool {
		content, _ := os.ReadFile(note)
		dir = string(content)
		return dir != ""
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "its service ends with it", func() bool {
		return (&Service{dir: dir}).ping(t.Context()) != nil
	})
	start(t, "next")
	eventually(t, "its folder is removed, here or by another test process", func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	})
}

// abandon runs a container, says where, and waits to be killed.
func abandon(note string) {
	s, err := Start(context.Background(), Options{Name: "lost"})
	if err == nil {
		_, err = s.Run(context.Background(), "run", "--detach", os.Getenv("PODMAN_TEST_IMAGE"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = os.WriteFile(note, []byte(s.dir), 0o600)
	select {}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 30 s in vain: %s", what)
		}
	}
}
