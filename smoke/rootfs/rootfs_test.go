package rootfs

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"
	"time"
)

// A Debian whose making is killed can be removed at once: what was mounted in it never
// was on the host, and nothing writes to it any more.
func TestKilledLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := apart(ctx, "/bin/sh", "-c", `mkdir "$1/proc" && mount -t proc proc "$1/proc" || exit; setsid sleep 300 & echo mounted; wait`, "sh", dir)
	cmd.Stdout = in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if _, err := io.ReadFull(out, make([]byte, len("mounted\n"))); err != nil {
		t.Fatalf("it did not mount: %v", err)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(dir)) {
		t.Error("what it mounted is on the host too")
	}

	kill()
	_ = cmd.Wait() // it was killed
	if err := out.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(out); err != nil {
		t.Errorf("what it started runs on: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("its folder stays: %v", err)
	}
}
