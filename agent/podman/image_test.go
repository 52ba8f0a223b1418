package podman

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/smoke/podman"
)

// smallDisk is a folder on a file system of its own, of 128 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fleet-disk-") // t.TempDir's path is too long for podman
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=128m,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "podman")
}

// Nothing is pulled onto a disk that is low, what is there already can be used, and
// the pull succeeds when there is room again.
func TestPullOntoALowDisk(t *testing.T) {
	dir := smallDisk(t)
	f := start(t, podman.Options{Dir: dir})
	here, step := f.step(score.Service{Name: "here"}), f.step(score.Service{Name: "there", Image: f.registry.Ref("hello:2")})
	here.MinFree, step.MinFree = 1<<30, 1<<30
	f.must(here, reconcile.Pull)
	filler, err := os.Create(filepath.Join(filepath.Dir(dir), "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Fallocate(int(filler.Fd()), 0, 0, int64(disk.Bavail)*disk.Bsize-8<<20); err != nil {
		t.Fatal(err)
	}
	outcome := f.run(step, reconcile.Pull)
	if outcome.Err == nil || outcome.Err.Reason != reconcile.ReasonDiskSpaceLow || outcome.Fetched != "" {
		t.Fatalf("got %+v", outcome)
	}
	for _, says := range []string{dir, "of 128 MiB", "at least 12 MiB", "min_free_space"} {
		if !strings.Contains(outcome.Err.Message, says) {
			t.Errorf("message %q lacks %q", outcome.Err.Message, says)
		}
	}
	f.must(here, reconcile.Pull, reconcile.Create, reconcile.Start)
	off := step
	off.MinFree = 0
	off.Delay = time.Hour
	if outcome := f.run(off, reconcile.Pull); outcome.Err != nil || !outcome.Absent {
		t.Errorf("a look: %+v", outcome)
	}
	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if outcome := f.must(step, reconcile.Pull); outcome.Fetched == "" {
		t.Errorf("got %+v", outcome)
	}
}

// An image is removed by the name that the agent pulled, and only while that is the
// image that it pulled and nobody uses it.
func TestRemoveImage(t *testing.T) {
	f := start(t, podman.Options{})
	run := func(args ...string) string {
		t.Helper()
		out, err := f.service.Run(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	step := f.step(score.Service{Name: "web"})
	name := step.Service.Spec.Image
	id := f.must(step, reconcile.Pull).Fetched
	if id == "" || f.must(step, reconcile.Pull).Fetched != "" {
		t.Fatalf("the first pull fetched %q, or the second one something", id)
	}
	f.must(step, reconcile.Create)
	if c := f.find(step); c.Image != id {
		t.Errorf("the container is of image %q, want %q", c.Image, id)
	}
	f.must(step, reconcile.Remove)
	there := func() bool {
		t.Helper()
		here, err := f.client.exists(t.Context(), "/images/%s/exists", name)
		if err != nil {
			t.Fatal(err)
		}
		return here
	}
	if err := f.client.RemoveImage(t.Context(), name, strings.Repeat("0", 64)); err != nil || !there() {
		t.Errorf("of another id: %v, there is %v", err, there())
	}
	run("create", "--name=somebodys", name)
	if err := f.client.RemoveImage(t.Context(), name, id); err == nil || !there() {
		t.Errorf("used by somebody: %v, there is %v", err, there())
	}
	run("rm", "somebodys")
	run("tag", name, "localhost/somebodys:1")
	if err := f.client.RemoveImage(t.Context(), name, id); err != nil || there() {
		t.Errorf("with another name: %v, there is %v", err, there())
	}
	if got := run("images", "--quiet", "--no-trunc", "localhost/somebodys:1"); !strings.Contains(got, id) {
		t.Errorf("somebody's name is gone: %q", got)
	}
	run("rmi", "localhost/somebodys:1")
	for range 2 {
		if id = f.must(step, reconcile.Pull).Fetched; id == "" {
			t.Error("removed, and still here")
		}
		if err := f.client.RemoveImage(t.Context(), name, id); err != nil || there() {
			t.Errorf("unused: %v, there is %v", err, there())
		}
	}
	if err := f.client.RemoveImage(t.Context(), name, id); err != nil {
		t.Error(fmt.Errorf("of one that is gone: %w", err))
	}
}
