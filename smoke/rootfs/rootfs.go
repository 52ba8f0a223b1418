// Package rootfs supplies folders with a whole Debian in them, in which tests install
// packages as on a device, and of which disks are made. debootstrap makes them, and what
// runs in one has its own processes and mounts. No systemd runs there: a virtual
// machine is for that, see package vm.
package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/nationtech/harmony-fleet/smoke/debian"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// Suite is the release of Debian that is installed: the oldest one that has a podman
// which the agent works with.
const Suite = "bookworm"

// Packages beyond the smallest system: what every Debian here has, and what a device has
// before it gets an agent.
const (
	included = "systemd,ca-certificates"
	added    = "podman runc"
)

// Root is a folder with a Debian.
type Root string

// Debian copies a fresh Debian to a new folder. It is made once for all tests.
func Debian(ctx context.Context, to string, progress io.Writer) (Root, error) {
	key := strings.Join([]string{"root", Suite, runtime.GOARCH, included, strings.ReplaceAll(added, " ", ",")}, "-")
	cached, err := tools.Cached(ctx, key, func(dir string) error {
		root, err := Bootstrap(ctx, filepath.Join(dir, "root"), runtime.GOARCH, progress)
		if err != nil {
			return err
		}
		return root.Install(ctx, added)
	})
	if err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "cp", "--archive", "--reflink=auto", filepath.Join(cached, "root"), to).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copying a Debian: %w: %s", err, out)
	}
	return Root(to), nil
}

// Bootstrap installs the smallest Debian, for an architecture, into a new folder.
func Bootstrap(ctx context.Context, dir, arch string, progress io.Writer) (Root, error) {
	programs := []debian.Program{{Package: "debootstrap", Paths: []string{"/usr/sbin/debootstrap"}}}
	if err := debian.Install(ctx, "a Debian in a folder", programs, progress); err != nil {
		return "", err
	}
	mirror, err := mirror(ctx)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(progress, "installing Debian %s for %s in a folder, which takes minutes\n", Suite, arch)
	cmd := apart(ctx, "debootstrap", "--arch="+arch, "--variant=minbase", "--include="+included, Suite, dir, mirror)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("installing Debian: %w: %s", err, out[max(0, len(out)-2000):])
	}
	return Root(dir), nil
}

// Install installs packages, by their names with spaces between, and what they depend on.
func (r Root) Install(ctx context.Context, packages string) error {
	if out, err := r.Run(ctx, "apt-get --yes --no-install-recommends install "+packages+" && apt-get clean"); err != nil {
		return fmt.Errorf("installing %s: %w: %s", packages, err, out[max(0, len(out)-2000):])
	}
	return nil
}

// mirror is where the host gets its own packages.
func mirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(SITE)", "Label: Debian", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("asking apt for its mirror: %w", err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	if first == "" {
		return "", errors.New("apt knows no mirror of Debian here")
	}
	return first, nil
}

// script mounts what programs expect, and then does what it is told.
const script = `set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs sysfs "$1/sys" -o ro
mount --rbind /sys/fs/cgroup "$1/sys/fs/cgroup"
mount --bind /dev "$1/dev"
exec chroot "$1" /bin/sh -c "$2"`

// Run has the shell of the Debian do something, and returns what it wrote. The network
// is the host's.
func (r Root) Run(ctx context.Context, command string) (string, error) {
	cmd := apart(ctx, "/bin/sh", "-c", script, "sh", string(r), command)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w", command, err)
	}
	return out.String(), nil
}

// apart is a command with mounts and processes of its own: however it ends, killed or
// with this process, nothing that it mounted or started stays on the host. A /proc that
// stayed in a folder would keep everybody from removing that folder.
func apart(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS, // which also keeps the host from seeing its mounts
		Pdeathsig:    syscall.SIGKILL,
	}
	return cmd
}

// Path is where a file of the Debian lies on the host.
func (r Root) Path(name string) string { return filepath.Join(string(r), name) }

// Write writes a file of the Debian.
func (r Root) Write(name, content string) error {
	if err := os.MkdirAll(filepath.Dir(r.Path(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(r.Path(name), []byte(content), 0o644) //nolint:gosec // as packages have it
}
