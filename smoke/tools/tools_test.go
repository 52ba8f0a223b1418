package tools

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestBuild builds what the cache lacks and asks each program for its version.
func TestBuild(t *testing.T) {
	tests := map[string]struct {
		reason string
		tool   Tool
		args   []string
	}{
		"etcd":                    {"etcd reports its own version", Etcd, []string{"--version"}},
		"nats":                    {"the command line runs", NATS, []string{"--help"}},
		"kube-apiserver":          {"the server must not report a placeholder", KubeAPIServer, []string{"--version"}},
		"kube-controller-manager": {"it comes from the same build", KubeControllerManager, []string{"--version"}},
		"kubectl":                 {"the client is of the same version", Kubectl, []string{"version", "--client"}},
		"openbao":                 {"the server runs", OpenBao, []string{"-help"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			path, err := Build(t.Context(), tc.tool, os.Stderr)
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(path, tc.args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%s %v: %v\n%s", path, tc.args, err, out)
			}
			folder, err := sourceDir()
			if err != nil {
				t.Fatal(err)
			}
			version, err := tc.tool.module.version(filepath.Join(folder, tc.tool.module.folder))
			if err != nil {
				t.Fatal(err)
			}
			silent := tc.tool.module == nats || tc.tool.module == openbao // about their version
			if !silent && !strings.Contains(string(out), strings.TrimPrefix(version, "v")) {
				t.Errorf("%s: want version %s in %q", tc.reason, version, out)
			}
			begin := time.Now()
			again, err := Build(t.Context(), tc.tool, os.Stderr)
			if err != nil || again != path || time.Since(begin) > 100*time.Millisecond {
				t.Errorf("finding it again: %q, %v, in %s", again, err, time.Since(begin))
			}
		})
	}
}

// TestKey: a change of our own source makes another program, one of a file beside
// the go.mod of somebody else's does not.
func TestKey(t *testing.T) {
	folder := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func(m module) string {
		got, err := m.key(folder, "v1.2.3")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	write("go.mod", "module a")
	write("main.go", "package main")
	own, others := module{folder: "a", own: true}, module{folder: "a"}
	before := key(own)
	if before != key(own) || !strings.HasPrefix(before, "a-v1.2.3-") {
		t.Errorf("the key must have the version and stay the same: %q, then %q", before, key(own))
	}
	for _, name := range []string{"main.go", "go.mod"} {
		write(name, "changed")
		if after := key(own); after == before {
			t.Errorf("%s changed, and the key is still %q", name, after)
		} else {
			before = after
		}
	}
	if got := key(others); got != "a-v1.2.3" {
		t.Errorf("key() = %q, want the version alone", got)
	}
	if got := key(module{folder: "a", part: "b"}); got != "a-b-v1.2.3" {
		t.Errorf("key() = %q: what else the folder has must be kept apart", got)
	}
}

func TestCachedFillsOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tool-v1")
	var fills atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			got, err := cachedIn(t.Context(), dir, func(partial string) error {
				fills.Add(1)
				return os.WriteFile(filepath.Join(partial, "bin"), []byte("x"), 0o755)
			})
			if err != nil || got != dir {
				t.Errorf("cachedIn() = %q, %v", got, err)
			}
		})
	}
	group.Wait()
	if n := fills.Load(); n != 1 {
		t.Errorf("filled %d times, want once", n)
	}
	if _, err := os.Stat(filepath.Join(dir, "bin")); err != nil {
		t.Error(err)
	}
}

func TestCachedForgetsAFailure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tool-v1")
	broken := errors.New("compiler says no")
	if _, err := cachedIn(t.Context(), dir, func(string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error = %v, want %v", err, broken)
	}
	if _, err := cachedIn(t.Context(), dir, func(string) error { return nil }); err != nil {
		t.Errorf("after a failure the next one must be able to fill: %v", err)
	}
}

func TestBinaryName(t *testing.T) {
	for pkg, want := range map[string]string{
		"go.etcd.io/etcd/server/v3":            "server",
		"k8s.io/kubernetes/cmd/kube-apiserver": "kube-apiserver",
		"github.com/nats-io/natscli/nats":      "nats",
		"example.org/thing/v":                  "v",
	} {
		if got := binaryName(pkg); got != want {
			t.Errorf("binaryName(%q) = %q, want %q", pkg, got, want)
		}
	}
}
