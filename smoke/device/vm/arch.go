package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"github.com/nationtech/harmony-fleet/smoke/debian"
)

// interpreters of programs for other architectures, as binfmt_misc(5) of Debian names
// them.
var interpreters = map[string]string{"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}

const binfmt = "/proc/sys/fs/binfmt_misc"

// withArch has this host run programs of the architecture while a Debian for it is
// installed, and undoes what that needs.
func withArch(ctx context.Context, arch string, progress io.Writer, do func() error) (err error) {
	if arch == runtime.GOARCH {
		return do()
	}
	name := interpreters[arch]
	err = debian.Install(ctx, "programs of "+arch, []debian.Program{
		{Package: "qemu-user-static", Paths: []string{"/usr/bin/" + name + "-static"}},
		{Package: "binfmt-support", Paths: []string{"/usr/sbin/update-binfmts"}},
	}, progress)
	if err != nil {
		return err
	}
	if _, err := os.Stat(binfmt + "/register"); err != nil {
		if err := command(ctx, "mount", "-t", "binfmt_misc", "binfmt_misc", binfmt); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, command(context.Background(), "umount", binfmt)) }()
	}
	if _, err := os.Stat(binfmt + "/" + name); err != nil {
		if err := command(ctx, "update-binfmts", "--enable", name); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, command(context.Background(), "update-binfmts", "--disable", name)) }()
	}
	return do()
}

// command runs one; the error has what it said.
func command(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}
