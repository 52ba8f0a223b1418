package podman

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/claim"
)

const temporaryPrefix = "fleet-pod-"

// reapAbandoned removes what test processes left that were killed: containers
// outlive the service that started them.
func reapAbandoned() error { return claim.Reap(temporaryPrefix, "podman", remove) }

// remove deletes the containers of the storage in dir, then dir.
func remove(dir string) error {
	s := &Service{dir: dir}
	if _, err := os.Stat(s.CommandLine()); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		_, podErr := s.Run(ctx, "pod", "rm", "--all", "--force", "--time=0")
		_, containerErr := s.Run(ctx, "rm", "--all", "--force", "--time=0")
		// A rootless podman keeps a process that holds its namespaces.
		_, pauseErr := s.Run(ctx, "system", "migrate")
		if err := errors.Join(podErr, containerErr, pauseErr); err != nil {
			return fmt.Errorf("removing the containers of %s: %w", dir, err)
		}
	}
	// What cleans up after a container that has just ended may still write, and
	// mount the storage anew.
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if err := unmountBelow(dir); err != nil {
			return err
		}
		err := os.RemoveAll(dir)
		if err == nil {
			return nil
		}
		passes := errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EBUSY)
		if !passes || time.Now().After(end) {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
	}
}

// unmountBelow unmounts all that is mounted below dir. Somebody else may do so too.
func unmountBelow(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		err := syscall.Unmount(mount, syscall.MNT_DETACH)
		if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("unmounting %s: %w", mount, err)
		}
	}
	return nil
}

// mountsBelow lists the mount points below dir, the last mounted first.
func mountsBelow(dir string) ([]string, error) {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	defer table.Close()
	var mounts []string
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		// 36 35 98:0 /root /mount/point options …
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			mounts = append(mounts, fields[4])
		}
	}
	slices.Reverse(mounts)
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	return mounts, nil
}
