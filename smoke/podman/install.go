package podman

import (
	"context"
	"io"

	"github.com/nationtech/harmony-fleet/smoke/debian"
)

// EnsureInstalled checks that podman and what it runs are there and that this
// user may use them. On Debian and its derivatives, root gets them installed;
// elsewhere the error says what to run.
func EnsureInstalled(ctx context.Context, progress io.Writer) error {
	return debian.Install(ctx, "a private podman service", []debian.Program{
		{Package: "podman", Paths: []string{"/usr/bin/podman", "/usr/local/bin/podman"}},
		{Package: "conmon", Paths: []string{"/usr/bin/conmon", "/usr/local/bin/conmon", "/usr/libexec/podman/conmon"}},
		debian.Runc,
		{Package: "netavark", Paths: []string{"/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"}},
		{Package: "aardvark-dns", Paths: []string{"/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns"}},
		{Package: "uidmap", Paths: []string{"/usr/bin/newuidmap"}},
		{Package: "slirp4netns", Paths: []string{"/usr/bin/slirp4netns", "/usr/local/bin/slirp4netns"}},
		debian.Iptables,
	}, progress)
}
