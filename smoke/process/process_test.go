package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if log := os.Getenv("PROCESS_TEST_PARENT"); log != "" {
		parent(log)
	}
	goleak.VerifyTestMain(m)
}

// parent starts a child, writes its pid, and waits to be killed.
func parent(log string) {
	child, err := Start(Spec{Path: "sleep", Args: []string{"300"}, Log: log})
	if err != nil {
		panic(err)
	}
	_ = os.WriteFile(log+".pid", []byte(strconv.Itoa(child.PID())), 0o600)
	select {}
}

func TestStop(t *testing.T) {
	tests := map[string]struct {
		reason string
		script string
		grace  time.Duration
	}{
		"graceful":     {"a program that honours SIGTERM ends within the grace period", "echo up; exec sleep 300", 5 * time.Second},
		"stubborn":     {"a program that ignores SIGTERM is killed", "trap '' TERM; echo up; sleep 300; sleep 300", 200 * time.Millisecond},
		"at once":      {"no grace period means SIGKILL", "echo up; exec sleep 300", 0},
		"already gone": {"stopping a program that has ended is no error", "echo up", time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := Start(Spec{Path: "sh", Args: []string{"-c", tc.script}, Log: filepath.Join(t.TempDir(), "log")})
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the script runs", func() bool { return p.LogTail(1) == "up" })
			begin := time.Now()
			p.Stop(tc.grace)
			p.Stop(tc.grace)
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("%s: took %s", tc.reason, took)
			}
			eventually(t, tc.reason+": the group is gone", func() bool {
				return errors.Is(syscall.Kill(-p.PID(), 0), syscall.ESRCH)
			})
		})
	}
}

// A port is one process's, although nothing listens there: what was killed is to find it
// free when it starts again.
func TestFreePortIsKept(t *testing.T) {
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC() // which closes what nobody holds
	time.Sleep(10 * time.Millisecond)
	if err := take(port); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("port %d can be taken once more: %v", port, err)
	}
}

// With process ids of its own, a program takes along also who left its group.
func TestNamespaces(t *testing.T) {
	p, err := Start(Spec{
		Path: "sh", Args: []string{"-c", "setsid sleep 300 & echo up; sleep 300"}, Log: filepath.Join(t.TempDir(), "log"),
		Namespaces: syscall.CLONE_NEWPID,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(0)
	var children []string
	eventually(t, "both children run", func() bool {
		pid := strconv.Itoa(p.PID())
		content, _ := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
		children = strings.Fields(string(content))
		return len(children) == 2
	})
	p.Stop(0)
	for _, child := range children {
		eventually(t, "child "+child+" is gone", func() bool {
			_, err := os.Stat("/proc/" + child)
			return err != nil
		})
	}
}

func TestWaitReadySaysWhyTheProgramEnded(t *testing.T) {
	p, err := Start(Spec{Path: "sh", Args: []string{"-c", "echo no such option >&2; exit 3"}, Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	err = p.WaitReady(t.Context(), func(context.Context) error { return errors.New("connection refused") })
	if err == nil || !strings.Contains(err.Error(), "no such option") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("want exit status and log in the error, got: %v", err)
	}
}

func TestChildDiesWithItsParent(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PROCESS_TEST_PARENT="+log)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	eventually(t, "the parent starts its child", func() bool {
		content, _ := os.ReadFile(log + ".pid")
		pid, _ = strconv.Atoi(string(content))
		return pid > 0
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "the child is gone", func() bool {
		state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(state), ") Z ") // a zombie waits for init to reap it
	})
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s in vain: %s", what)
		}
	}
}
