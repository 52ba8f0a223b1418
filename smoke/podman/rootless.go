package podman

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user as whom rootless services run; it is made when it is
// missing, with the ranges of user ids that podman needs, and is never removed.
const account = "fleet-rootless"

// tun is the device number of /dev/net/tun.
const tun = 10<<8 | 200

// surrender gives the folder of a service to the account, so that podman runs
// rootless on it, and makes the device node that its network needs: hosts that
// are containers keep theirs to root.
func (s *Service) surrender(ctx context.Context) error {
	owner, err := rootlessAccount(ctx)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return fmt.Errorf("reading the user id of %s: %w", account, err)
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return fmt.Errorf("reading the group id of %s: %w", account, err)
	}
	if err := syscall.Mknod(s.path("tun"), syscall.S_IFCHR, tun); err != nil {
		return fmt.Errorf("making a tun device: %w", err)
	}
	if err := os.Chmod(s.path("tun"), 0o666); err != nil {
		return err
	}
	return filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

func rootlessAccount(ctx context.Context) (*user.User, error) {
	found, err := user.Lookup(account)
	var unknown user.UnknownUserError
	if !errors.As(err, &unknown) {
		return found, err
	}
	out, err := exec.CommandContext(ctx, "useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", account).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("adding the user %s: %w\n%s", account, err, out)
	}
	return user.Lookup(account)
}
