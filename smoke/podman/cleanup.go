package podman

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const temporaryPrefix = "fleet-pod-"

// claim marks the folder as in use for as long as this process lives.
func claim(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "owner.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claiming %s: %w", dir, err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("claiming %s, which another process uses: %w", dir, err)
	}
	return file, nil
}

// reapAbandoned removes what test processes left that were killed: containers
// outlive the service that started them.
func reapAbandoned() error {
	// The command is written after the claim: a folder without it is being made.
	commands, err := filepath.Glob(filepath.Join(os.TempDir(), temporaryPrefix+"*", "podman"))
	if err != nil {
		return fmt.Errorf("looking for abandoned services: %w", err)
	}
	for _, command := range commands {
		dir := filepath.Dir(command)
		owner, err := claim(dir)
		if err != nil {
			continue // in use, or gone since
		}
		err = remove(dir)
		owner.Close()
		if err != nil {
			return fmt.Errorf("removing an abandoned service: %w", err)
		}
	}
	return nil
}

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
