package vm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/nationtech/harmony-fleet/smoke/process"
)

// childVariable has the folder of a machine that a child of this test starts.
const childVariable = "VM_TEST_MACHINE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

// child starts the machine, and waits to be killed.
func child(dir string) {
	l, err := findLibvirt()
	if err == nil {
		_, err = l.start(pausedMachine(dir), Boot{})
	}
	if err != nil {
		panic(err)
	}
	select {}
}

// pausedMachine is one that is never told to go on.
func pausedMachine(dir string) *Machine {
	return &Machine{dir: dir, image: image{arch: runtime.GOARCH, dir: dir}, accelerator: tcg}
}

// newPaused makes one, with a kernel that qemu takes for one.
func newPaused(t *testing.T) *Machine {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), temporaryPrefix)
	if err != nil {
		t.Fatal(err)
	}
	m := pausedMachine(dir)
	kernel := make([]byte, 64<<10)
	copy(kernel[0x202:], "HdrS\x02\x02") // as Linux's boot protocol has it
	err = errors.Join(
		os.WriteFile(m.image.kernel(), kernel, 0o600),
		os.WriteFile(m.image.initrd(), []byte("initrd"), 0o600),
		command(t.Context(), "qemu-img", "create", "-q", "-f", "qcow2", m.path(markFile), "1M"),
	)
	for _, port := range []*int{&m.sshPort, &m.webPort} {
		if err == nil {
			*port, err = process.FreePort()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func startPaused(t *testing.T, l libvirtd, m *Machine) *running {
	t.Helper()
	p, err := l.start(m, Boot{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.cut)
	return p.(*running)
}

// However a machine ends, nothing is left of it.
func TestLibvirt(t *testing.T) {
	l, err := findLibvirt()
	if err != nil || os.Getuid() != 0 {
		t.Skipf("this wants root, and a libvirt that answers, which the project does not install: %v", err)
	}
	if err := installQemu(t.Context(), runtime.GOARCH, t.Output()); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(t *testing.T, m *Machine){
		"its power is cut": func(t *testing.T, m *Machine) {
			r := startPaused(t, l, m)
			if err := m.tell(link(false)); err != nil {
				t.Error(err)
			}
			r.cut()
		},
		"it crashes": func(t *testing.T, m *Machine) {
			r := startPaused(t, l, m)
			if err := r.qemu.Kill(); err != nil {
				t.Fatal(err)
			}
			err := r.WaitReady(t.Context(), func(context.Context) error { return errors.New("not yet") })
			if err == nil || !strings.Contains(err.Error(), "not on") {
				t.Errorf("want an error that says that the machine is off, got %v", err)
			}
		},
		"its process is killed": func(t *testing.T, m *Machine) {
			child := exec.Command(os.Args[0])
			child.Env, child.Stderr = append(os.Environ(), childVariable+"="+m.dir), t.Output()
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the child starts the machine", func() bool { return known(t, l, m) })
			_ = child.Process.Kill()
			_ = child.Wait()
			eventually(t, "libvirt ends the machine", func() bool { return !known(t, l, m) })
		},
		// As when libvirt was restarted in between.
		"it outlived its process": func(t *testing.T, m *Machine) { startPaused(t, l, m) },
	}
	for name, end := range tests {
		t.Run(name, func(t *testing.T) {
			m := newPaused(t)
			end(t, m)
			if err := l.reap(filepath.Base(m.dir)); err != nil {
				t.Error(err)
			}
			if known(t, l, m) {
				t.Error("libvirt knows of the machine")
			}
			if _, err := listening(m.path("qmp")); err == nil {
				t.Error("qemu runs")
			}
			if _, err := os.Stat(qemuLog(filepath.Base(m.dir))); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("qemu's log is there: %v", err)
			}
		})
	}
}

// known says whether libvirt has the machine.
func known(t *testing.T, l libvirtd, m *Machine) bool {
	t.Helper()
	conn, err := l.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer disconnect(conn)
	_, err = conn.DomainLookupByName(filepath.Base(m.dir))
	if err != nil && !libvirt.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
