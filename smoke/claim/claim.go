// Package claim marks a folder as in use for as long as the process lives, so that
// the next start can tell what a killed one left behind and remove it. It never
// takes a folder that a living process holds.
package claim

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Take marks the folder as used by this process, until the returned file is closed.
func Take(dir string) (*os.File, error) {
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

// Reap removes temporary folders whose process was killed. They have a name with
// the prefix, and in them the file mark: one that is written after the claim, since
// a folder without it is being made.
func Reap(prefix, mark string, remove func(dir string) error) error {
	marks, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*", mark))
	if err != nil {
		return fmt.Errorf("looking for folders called %s*: %w", prefix, err)
	}
	for _, file := range marks {
		dir := filepath.Dir(file)
		owner, err := Take(dir)
		if err != nil {
			continue // in use, or gone since
		}
		err = remove(dir)
		owner.Close()
		if err != nil {
			return fmt.Errorf("removing what a killed process left: %w", err)
		}
	}
	return nil
}
