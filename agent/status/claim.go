package status

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// claimFile in the state directory is locked by the agent that uses it. The
// kernel releases the lock with the process, however that ends.
const claimFile = "agent.lock"

// ErrClaimed says that another agent uses the state directory.
var ErrClaimed = errors.New("another agent uses this state directory")

// Claim takes the state directory for this process until the claim is closed. It
// fails with ErrClaimed.
func Claim(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, claimFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claiming the state directory: %w", err)
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	err = unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &lock)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = ErrClaimed
	}
	if err != nil {
		_ = file.Close() // nothing was written
		return nil, fmt.Errorf("claiming %s: %w", dir, err)
	}
	return file, nil
}

// Claimed reports whether an agent uses the state directory now. It asks without
// taking the lock, so that it can never keep an agent from starting.
func Claimed(dir string) (bool, error) {
	file, err := os.Open(filepath.Join(dir, claimFile)) // also on a disk that is read-only
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking whether the agent runs: %w", err)
	}
	defer func() { _ = file.Close() }()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("asking whether the agent runs: %w", err)
	}
	return lock.Type != unix.F_UNLCK, nil
}
