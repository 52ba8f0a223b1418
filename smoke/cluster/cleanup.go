package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// groups are where a cluster's control groups are, one in each hierarchy of the host.
// They have the name of its folder, which no other cluster has.
func groups(dir string) ([]string, error) {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err == nil {
		return []string{filepath.Join(root, filepath.Base(dir))}, nil // there is but one
	}
	found, err := filepath.Glob(root + "/*/cgroup.procs")
	if err != nil {
		return nil, fmt.Errorf("looking for hierarchies of control groups: %w", err)
	}
	for i, file := range found {
		found[i] = filepath.Join(filepath.Dir(file), filepath.Base(dir))
	}
	return found, nil
}

// makeGroups makes them. A new one may use no processor unless told which.
func makeGroups(dir string) error {
	made, err := groups(dir)
	if err != nil {
		return err
	}
	for _, group := range made {
		if err := os.MkdirAll(group, 0o755); err != nil { // two names may stand for one hierarchy
			return fmt.Errorf("making a control group: %w", err)
		}
		for _, setting := range []string{"cpuset.cpus", "cpuset.mems"} {
			content, err := os.ReadFile(filepath.Join(filepath.Dir(group), setting))
			if errors.Is(err, fs.ErrNotExist) {
				continue // not the hierarchy of processors, or one where it is inherited
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(group, setting), content, 0o600)
			}
			if err != nil {
				return fmt.Errorf("setting %s of control group %s: %w", setting, group, err)
			}
		}
	}
	return nil
}

// removeAll removes what outlives a cluster's processes, those of one that was killed
// included: its control groups and its folder.
func removeAll(dir string) error {
	left, err := groups(dir)
	if err != nil {
		return err
	}
	for _, group := range left {
		if err := removeGroup(group); err != nil {
			return err
		}
	}
	if err := patiently(func() error { return os.RemoveAll(dir) }); err != nil {
		return fmt.Errorf("removing the folder: %w", err)
	}
	return nil
}

// removeGroup removes a control group and those below it.
func removeGroup(group string) error {
	var all []string
	err := filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading control group %s: %w", group, err)
	}
	for _, path := range slices.Backward(all) {
		if err := patiently(func() error { return syscall.Rmdir(path) }); err != nil {
			return fmt.Errorf("removing control group %s: %w", path, err)
		}
	}
	return nil
}

// patiently tries for a minute: what was killed takes a moment to let go.
func patiently(try func() error) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := try()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
