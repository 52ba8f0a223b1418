package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/smoke/kube"
)

func TestMain(m *testing.M) { os.Exit(kube.RunTests(m)) }

// transcript is what a demo writes; it can be watched while it grows.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
	// on is called when the text has come to contain a mark.
	mark string
	on   func()
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.text.Write(p)
	if t.mark != "" && strings.Contains(t.text.String(), t.mark) {
		t.mark = ""
		t.on()
	}
	return n, err
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// run runs a demo that is expected not to reach its hand-over, where it would
// wait for ever.
func run(t *testing.T, options Options) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	return Run(ctx, options)
}

// place is a folder of its own for all that a demo makes; whatever is left of a
// demo has its name somewhere. It is short, as podman wants it.
func place(t *testing.T) string {
	t.Helper()
	dir := fmt.Sprintf("/tmp/fd%d", os.Getpid())
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", dir)
	return dir
}

// checkNothingLeft looks for files, mounts and processes of a demo that is over.
func checkNothingLeft(t *testing.T, place string) {
	t.Helper()
	files, err := os.ReadDir(place)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Errorf("file left: %s", file.Name())
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, place) {
			t.Errorf("mount left: %s", line)
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range commands {
		command, err := os.ReadFile(path)
		if err == nil && bytes.Contains(command, []byte(place)) { // else it has ended since
			t.Errorf("process left: %s", bytes.ReplaceAll(command, []byte{0}, []byte(" ")))
		}
	}
}

// TestRegressionAsGuest runs the main story in a cluster that is there already,
// which must be as before afterwards.
func TestRegressionAsGuest(t *testing.T) {
	for name, options := range map[string]struct {
		Options
		want string
	}{
		"with passwords": {Options{}, "7 passed, 0 failed"},
		"with tokens":    {Options{Auth: true}, "13 passed, 0 failed"},
	} {
		t.Run(name, func(t *testing.T) {
			plane := kube.Shared(t)
			dir := place(t)
			var out transcript
			options.Auto, options.Kubeconfig, options.Out = true, plane.Kubeconfig(), &out
			if err := Run(t.Context(), options.Options); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			if !strings.Contains(out.String(), options.want) {
				t.Errorf("want %q in:\n%s", options.want, out.String())
			}
			checkNothingLeft(t, dir)
			g, err := newGuest(plane.Config())
			if err != nil {
				t.Fatal(err)
			}
			if err := g.refuseLiving(t.Context()); err != nil {
				t.Errorf("definitions left in the cluster: %v", err)
			}
		})
	}
}

// TestInterruptedStart presses Ctrl-C while the second device starts: its podman
// service is being made, and all else is up.
func TestInterruptedStart(t *testing.T) {
	plane := kube.Shared(t)
	dir := place(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	interrupt := func() {
		for {
			if made, _ := filepath.Glob(filepath.Join(dir, "fleet-pod-device-b-*")); len(made) > 0 {
				cancel()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	out := transcript{mark: "starting device-a", on: func() { go interrupt() }}
	err := Run(ctx, Options{Kubeconfig: plane.Kubeconfig(), Out: &out})
	if err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("want an interruption, got %v\n%s", err, out.String())
	}
	checkNothingLeft(t, dir)
}

// TestFailedStart takes away what a late step needs: the error is told, with the
// end of the logs, and everything before it is taken down.
func TestFailedStart(t *testing.T) {
	plane := kube.Shared(t)
	dir := place(t)
	out := transcript{mark: "starting device-a", on: func() {
		agents, err := filepath.Glob(filepath.Join(dir, "fleet-demo-*", "bin", "fleet-agent"))
		if err != nil || len(agents) != 1 {
			t.Fatalf("finding the agent: %v %v", agents, err)
		}
		if err := os.WriteFile(agents[0], []byte("#!/bin/sh\necho this agent is broken\nexit 1\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}}
	err := run(t, Options{Kubeconfig: plane.Kubeconfig(), Out: &out})
	if err == nil || !strings.Contains(err.Error(), "this agent is broken") {
		t.Errorf("want the agent's own words, got %v\n%s", err, out.String())
	}
	checkNothingLeft(t, dir)
}

// TestOccupied: neither somebody's fleet nor an old demo's folder is touched.
func TestOccupied(t *testing.T) {
	plane := kube.Shared(t)
	dir := place(t)
	if err := kube.InstallCRDs(t.Context(), plane.Config(), crds.All()); err != nil {
		t.Fatal(err)
	}
	g, err := newGuest(plane.Config())
	if err != nil {
		t.Fatal(err)
	}
	var out transcript
	err = run(t, Options{Kubeconfig: plane.Kubeconfig(), Out: &out})
	if err == nil || !strings.Contains(err.Error(), "installed already") {
		t.Errorf("want a refusal, got %v", err)
	}
	if g.refuseLiving(t.Context()) == nil {
		t.Error("the definitions of the cluster have been removed")
	}
	checkNothingLeft(t, dir)
	if err := g.removeDefinitions(); err != nil {
		t.Fatal(err)
	}

	occupied := t.TempDir()
	if err := os.WriteFile(filepath.Join(occupied, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err = run(t, Options{Dir: occupied, Out: &out})
	if err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("want a refusal, got %v", err)
	}
}
