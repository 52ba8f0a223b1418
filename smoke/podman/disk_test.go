package podman

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A service with a disk of its own stores there, can fill it up and no other, and leaves
// no mount behind.
func TestDisk(t *testing.T) {
	s, err := Start(t.Context(), Options{Name: "disk", DiskBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	dir := s.dir
	t.Cleanup(func() { _ = s.Stop() }) // where the test ended early
	if _, err := s.Run(t.Context(), "pull", pushHello(t, "v1")); err != nil {
		t.Fatal(err)
	}
	if layers, err := os.ReadDir(filepath.Join(s.Disk(), "root", "overlay-layers")); err != nil || len(layers) == 0 {
		t.Errorf("it stores elsewhere: %v, %v", layers, err)
	}
	err = os.WriteFile(filepath.Join(s.Disk(), "ballast"), bytes.Repeat([]byte{'x'}, 64<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing more than the disk has: %v", err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if mounts, err := mountsBelow(dir); err != nil || len(mounts) > 0 {
		t.Errorf("still mounted: %v, %v", mounts, err)
	}
}
