package reload_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"github.com/nationtech/harmony-fleet/operator/reload"
)

// serve names the copy of this program that plays a server: it says when it is
// told to read its files, until its input ends.
const serve = "RELOAD_TEST_SERVE"

func TestMain(m *testing.M) {
	name := os.Getenv(serve)
	if name == "" {
		os.Exit(m.Run())
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGHUP)
	if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	go func() {
		for range told {
			fmt.Println("told")
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// server starts one by that name, and returns what it says.
func server(t *testing.T, name string) <-chan string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), serve+"="+name)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	lines := make(chan string, 100)
	go func() {
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	if got := next(t, lines); got != "ready" {
		t.Fatalf("the server says %q", got)
	}
	return lines
}

func next(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case line := <-lines:
		return line
	case <-time.After(time.Minute):
		t.Fatal("nothing is said in a minute")
		return ""
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRun: the server is told of every change, also of one that came before it
// did, and no other program is.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	// As kubelet mounts a Secret: files are links into a folder that is replaced.
	mount := func(version, content string) {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, version, "tls.crt"), []byte(content), 0o600))
		must(t, os.Symlink(version, filepath.Join(dir, "next")))
		must(t, os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "data")))
	}
	mount("1", "one")
	name := fmt.Sprintf("srv-%d", os.Getpid())
	log := make(chan string, 100)
	w := &reload.Watcher{
		Process: name, Files: []string{filepath.Join(dir, "data", "tls.crt"), filepath.Join(dir, "missing")},
		Interval: 10 * time.Millisecond, Log: logger(t, log),
	}
	var running sync.WaitGroup
	running.Go(func() { w.Run(t.Context()) })
	t.Cleanup(running.Wait)

	if got := next(t, log); !strings.Contains(got, "watching") {
		t.Errorf("first it says %s", got)
	}
	mount("2", "two")
	if got := next(t, log); !strings.Contains(got, "no process of that name") {
		t.Errorf("without a server it says %s", got)
	}
	other, lines := server(t, "other"), server(t, name)
	if got := next(t, lines); got != "told" {
		t.Errorf("the server that came later says %q", got)
	}
	mount("3", "two") // replaced, and the same
	mount("4", "three")
	if got := next(t, lines); got != "told" {
		t.Errorf("after a change the server says %q", got)
	}
	must(t, os.WriteFile(filepath.Join(dir, "missing"), []byte("there"), 0o600))
	if got := next(t, lines); got != "told" {
		t.Errorf("after a file came the server says %q", got)
	}
	if len(lines) > 0 || len(other) > 0 {
		t.Errorf("told too often (%d), or another program was (%d)", len(lines), len(other))
	}
}

func logger(t *testing.T, to chan<- string) logr.Logger {
	return funcr.New(func(_, args string) { t.Log(args); to <- args }, funcr.Options{})
}
