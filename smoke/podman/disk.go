package podman

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/nationtech/harmony-fleet/smoke/debian"
)

// bytesPerInode leaves a small disk about a thousand files, which can be used up soon.
const bytesPerInode = 1 << 16

// store makes the place for what podman stores.
func (s *Service) store(ctx context.Context, o Options) error {
	s.root = s.path("root")
	if o.DiskBytes > 0 {
		if err := s.mountDisk(ctx, o.DiskBytes, o.Progress); err != nil {
			return fmt.Errorf("making a disk of %d bytes: %w", o.DiskBytes, err)
		}
		s.root = filepath.Join(s.Disk(), "root")
	}
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return fmt.Errorf("making the folder of the storage: %w", err)
	}
	return nil
}

// Disk is the folder on which the file system of Options.DiskBytes is mounted. Others may
// store there too, but in the folder root.
func (s *Service) Disk() string { return s.path("disk") }

// mountDisk has the kernel let go of the file when it is unmounted, as all is that is
// mounted below the folder when the service is removed.
func (s *Service) mountDisk(ctx context.Context, size int64, progress io.Writer) error {
	err := debian.Install(ctx, "a small disk", []debian.Program{
		{Package: "e2fsprogs", Paths: []string{"/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"}},
		{Package: "mount", Paths: []string{"/usr/bin/mount", "/bin/mount"}},
	}, progress)
	if err != nil {
		return err
	}
	if err := os.Mkdir(s.Disk(), 0o700); err != nil {
		return err
	}
	file := s.path("disk.ext4")
	for _, command := range [][]string{
		// Nothing is kept back for root, who fills it up.
		{"mkfs.ext4", "-q", "-m", "0", "-b", "4096", "-i", strconv.Itoa(bytesPerInode), file, strconv.FormatInt(size>>10, 10) + "k"},
		{"mount", "-o", "loop", file, s.Disk()},
	} {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", command, err, out)
		}
	}
	return nil
}
