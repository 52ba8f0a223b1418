// Package debian supplies programs that the smoke takes from a distribution:
// installs Debian packages, or unpacks them beside the host's own where a package
// would bring a daemon along. It never starts or stops a daemon.
package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// Program is one that has to be there.
type Program struct {
	// Package of Debian that has it.
	Package string
	// Paths where it may lie, some of them outside PATH.
	Paths []string
}

// Programs that more than one part of the smoke needs.
var (
	Runc     = Program{"runc", []string{"/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"}}
	Iptables = Program{"iptables", []string{"/usr/sbin/iptables", "/sbin/iptables"}}
)

// Install makes sure that the programs are there. On Debian and its derivatives,
// root gets what is missing installed; elsewhere the error says what to install.
// What needs them, such as "podman", is for that error.
func Install(ctx context.Context, what string, programs []Program, progress io.Writer) error {
	if os.Getuid() != 0 {
		return fmt.Errorf("%s needs root; run this with sudo", what)
	}
	var missing []string
	for _, p := range programs {
		if !slices.ContainsFunc(p.Paths, isFile) {
			missing = append(missing, p.Package)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	packages := strings.Join(missing, " ")
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("%s needs packages that are missing here; install what your distribution calls: %s", what, packages)
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

// Unpack returns the folder with the files of a package, as they would lie below /.
// Nothing of it is installed. A version that the cache has is taken; else the one that
// apt would install is downloaded.
func Unpack(ctx context.Context, name string, progress io.Writer) (string, error) {
	cached, err := tools.Find("debian-" + name + "_*_" + runtime.GOARCH) // Debian calls them the same
	if err != nil {
		return "", err
	}
	if len(cached) > 0 {
		return cached[len(cached)-1], nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", fmt.Errorf("%s comes from a package of Debian, and there is no apt-get here", name)
	}
	file, err := candidate(ctx, name)
	if err != nil {
		_ = exec.CommandContext(ctx, "apt-get", "update").Run() // the lists may be old or empty
		if file, err = candidate(ctx, name); err != nil {
			return "", err
		}
	}
	return tools.Cached(ctx, "debian-"+strings.TrimSuffix(file, ".deb"), func(dir string) error {
		fmt.Fprintf(progress, "unpacking package %s\n", strings.TrimSuffix(file, ".deb"))
		for _, args := range [][]string{
			// Not as apt's own user, who may not write here.
			{"apt-get", "download", "-o", "APT::Sandbox::User=root", name},
			{"dpkg-deb", "--extract", file, "."},
		} {
			cmd := exec.CommandContext(ctx, args[0], args[1:]...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("unpacking %s: %s: %w\n%s", name, args[0], err, out)
			}
		}
		return os.Remove(filepath.Join(dir, file))
	})
}

// candidate is the file name of the package that apt would download, which has its
// version and architecture.
func candidate(ctx context.Context, name string) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "download", "--print-uris", name).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = exit.Stderr
		}
		return "", fmt.Errorf("looking for the package %s: %w\n%s", name, err, out)
	}
	// 'http://…/containerd_1.6.20.deb' containerd_1.6.20.deb 25903404 SHA256:…
	fields := strings.Fields(string(out))
	if len(fields) < 2 || !strings.HasSuffix(fields[1], ".deb") {
		return "", fmt.Errorf("looking for the package %s: apt-get answers %q", name, out)
	}
	return fields[1], nil
}
