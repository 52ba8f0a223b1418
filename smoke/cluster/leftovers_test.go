package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/steps"
)

// Environment of this test program when it is run again for another role.
const (
	ownHost = "CLUSTER_TEST_OWN_HOST" // the test, where nobody else works
	smoke   = "CLUSTER_TEST_SMOKE"    // what has a cluster
)

// upLine is what the smoke says when a pod runs on its cluster.
const upLine = "a pod runs"

func TestMain(m *testing.M) {
	if os.Getenv(smoke) != "" {
		if err := smokeUntilSignal(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// smokeUntilSignal does with a cluster what cmd/smoke does: everything until a
// signal, and then away with it.
func smokeUntilSignal() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := Start(ctx, Options{Provider: "source", Journal: &steps.Journal{Out: os.Stdout}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	for _, args := range [][]string{
		{"create", "serviceaccount", "runner"},
		{"run", "runner", "--image=" + pauseImage, "--image-pull-policy=Never", `--overrides={"spec":{"serviceAccountName":"runner"}}`},
		{"wait", "pod/runner", "--for=condition=Ready", "--timeout=3m"},
	} {
		if _, err := c.Kubectl(ctx, "", args...); err != nil {
			return err
		}
	}
	fmt.Println(upLine)
	<-ctx.Done()
	return nil
}

// TestNothingIsLeft compares the host before a cluster with after it, however it
// ended. Other programs work on the same host: the test is run on one of its own,
// with namespaces where there are no others.
func TestNothingIsLeft(t *testing.T) {
	provider := os.Getenv("FLEET_SMOKE")
	if provider == "" {
		t.Skip("takes minutes, and programs that only a smoke builds: make smoke runs it")
	}
	if provider == "auto" {
		provider = Pick(os.Getenv("KUBECONFIG"), exec.LookPath).Provider
	}
	if provider != "source" {
		t.Skipf("nothing of the smoke runs on this host but %s", provider)
	}
	if os.Getenv(ownHost) == "" {
		if err := Prepare(t.Context(), os.Stderr); err != nil {
			t.Fatal(err)
		}
		onOwnHost(t)
		return
	}
	t.Setenv("TMPDIR", t.TempDir())
	before := hostState(t)
	tests := []struct {
		name, reason string
		signal       syscall.Signal
		after        string // this line of the smoke
		keeps        bool   // the folder, for the next start to remove
	}{
		{"killed", "the kernel takes all but files away", syscall.SIGKILL, upLine, true},
		{"interrupted", "a start that is cut short removes its own and what was left before it", syscall.SIGINT, "waiting for the node", false},
		{"interrupted early", "also before there are containers", syscall.SIGINT, "starting etcd", false},
		{"stopped", "everything was up, and a pod ran", syscall.SIGTERM, upLine, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			cmd := startSmoke(t, tc.after)
			if len(left(t, before)) == 0 {
				t.Error("nothing is found to be left although a cluster is there")
			}
			if err := cmd.Process.Signal(tc.signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // it says by its exit code what the signal was
			var found []string
			for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				found = slices.DeleteFunc(left(t, before), func(line string) bool {
					return tc.keeps && (strings.HasPrefix(line, "file ") || strings.HasPrefix(line, "control group "))
				})
				if len(found) == 0 {
					return
				}
			}
			t.Errorf("%s; left are:\n%s", tc.reason, strings.Join(found, "\n"))
		})
	}
}

// onOwnHost runs the test again in new namespaces. The shell stays as their first
// process: it asks after orphans as the host's does. One that nobody asks after keeps
// its namespace, and that keeps its first process.
func onOwnHost(t *testing.T) {
	const script = `set -e
		mount --make-rprivate /
		mount -t proc proc /proc
		mount -t tmpfs tmpfs /run
		ip link set lo up
		code=0
		"$0" "$@" || code=$?
		exit $code`
	cmd := exec.Command("sh", "-c", script, os.Args[0], "-test.v", "-test.run=^TestNothingIsLeft$")
	cmd.Env = append(os.Environ(), ownHost+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
	}
	if err := cmd.Run(); err != nil {
		t.Fatal("on a host of its own:", err)
	}
}

// startSmoke returns when the smoke has said the line.
func startSmoke(t *testing.T, line string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), smoke+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan bool)
	go func() {
		defer close(said)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			fmt.Println("   ", scan.Text())
			if strings.Contains(scan.Text(), line) {
				said <- true
			}
		}
	}()
	if !<-said {
		t.Fatalf("the smoke ended without having said %q: %v", line, cmd.Wait())
	}
	go func() {
		for range said { // the rest, for it must not stall
		}
	}()
	return cmd
}

// left is what the host has now and did not have before.
func left(t *testing.T, before []string) []string {
	t.Helper()
	return slices.DeleteFunc(hostState(t), func(line string) bool { return slices.Contains(before, line) })
}

// hostState is everything that a cluster may leave behind or change, one a line.
func hostState(t *testing.T) []string {
	t.Helper()
	var state []string
	add := func(kind string, lines ...string) {
		for _, line := range lines {
			state = append(state, kind+" "+line)
		}
	}
	add("process", processes(t)...)
	// Where the parts keep things unless they are told or shown another place, too.
	for _, pattern := range []string{os.TempDir() + "/*", "/var/lib/*", "/var/log/*", "/run/containerd/*"} {
		add("file", glob(t, pattern)...)
	}
	add("control group", glob(t, "/sys/fs/cgroup/"+temporaryPrefix+"*")...)
	add("control group", glob(t, "/sys/fs/cgroup/*/"+temporaryPrefix+"*")...)
	for name := range kernelSettings {
		content, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		add("setting "+name, string(content))
	}
	for kind, command := range map[string]string{
		"mount":             "cat /proc/self/mountinfo",
		"network namespace": "ip netns list",
		"link":              "ip -brief link",
		"address":           "ip -brief address",
		"route":             "ip route",
		"firewall":          "iptables-save | grep ^-", // the rules
	} {
		out, err := exec.Command("sh", "-c", command+" || true").Output()
		if err != nil {
			t.Fatal(err)
		}
		add(kind, strings.Split(strings.TrimSpace(string(out)), "\n")...)
	}
	return state
}

// processes are the names and command lines of those that live.
func processes(t *testing.T) []string {
	t.Helper()
	var alive []string
	for _, dir := range glob(t, "/proc/[0-9]*") {
		stat, statErr := os.ReadFile(dir + "/stat") // 1 (name) state …
		command, err := os.ReadFile(dir + "/cmdline")
		if errors.Join(statErr, err) != nil {
			continue // has ended meanwhile
		}
		_, after, _ := strings.Cut(string(stat), "(")
		name, state, _ := strings.Cut(after, ") ")
		if state[0] != 'Z' { // a zombie has ended, and nobody asked how
			alive = append(alive, name+" "+strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return alive
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
