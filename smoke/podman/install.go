package podman

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// requirements are the programs that a service needs and the Debian packages
// that have them. Some lie outside PATH.
var requirements = []struct {
	debian string
	paths  []string
}{
	{"podman", []string{"/usr/bin/podman", "/usr/local/bin/podman"}},
	{"conmon", []string{"/usr/bin/conmon", "/usr/local/bin/conmon", "/usr/libexec/podman/conmon"}},
	{"runc", []string{"/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"}},
	{"netavark", []string{"/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"}},
	{"aardvark-dns", []string{"/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns"}},
	{"uidmap", []string{"/usr/bin/newuidmap"}},
	{"slirp4netns", []string{"/usr/bin/slirp4netns", "/usr/local/bin/slirp4netns"}},
	{"iptables", []string{"/usr/sbin/iptables", "/sbin/iptables"}},
}

// EnsureInstalled checks that podman and what it runs are there and that this
// user may use them. On Debian and its derivatives, root gets them installed;
// elsewhere the error says what to run.
func EnsureInstalled(ctx context.Context, progress io.Writer) error {
	if os.Getuid() != 0 {
		return errors.New("a private podman service needs root; run this with sudo")
	}
	var missing []string
	for _, r := range requirements {
		if !slices.ContainsFunc(r.paths, isFile) {
			missing = append(missing, r.debian)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	packages := strings.Join(missing, " ")
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("podman needs packages that are missing here; install what your distribution calls: %s", packages)
	}
	fmt.Fprintf(progress, "installing packages: apt-get install %s\n", packages)
	// The lists may be old or empty; when they cannot be updated, installing
	// says what is wrong.
	_ = exec.CommandContext(ctx, apt, "update").Run()
	args := append([]string{"install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"}, missing...)
	cmd := exec.CommandContext(ctx, apt, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("installing %s: %w\n%s", packages, err, out)
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}
