package shop

import (
	"fmt"
	"io"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/rpm" // a format
)

// Manager is a package manager, by what the shell of root does with it.
type Manager struct {
	trust []trusted
	// Install installs the agent, and Upgrade has a later version of it, once the device
	// trusts the repository.
	Install, Upgrade string
}

// trusted is a file of the repository, and where the manager looks for it.
type trusted struct{ name, path string }

// apt looks at this repository alone: others may be far away.
const apt = "apt-get --quiet update -o Dir::Etc::sourcelist=/dev/null && apt-get --quiet --yes install fleet-agent"

// Managers of packages, as docs/device.md has them.
var (
	Apt = Manager{
		trust: []trusted{
			{"harmony-fleet.gpg", "/usr/share/keyrings/harmony-fleet.gpg"},
			{"harmony-fleet.sources", "/etc/apt/sources.list.d/harmony-fleet.sources"},
		},
		Install: apt, Upgrade: apt,
	}
	Dnf = Manager{
		trust: []trusted{
			{"harmony-fleet.asc", "/etc/pki/rpm-gpg/RPM-GPG-KEY-harmony-fleet"},
			{"harmony-fleet.repo", "/etc/yum.repos.d/harmony-fleet.repo"},
		},
		Install: "dnf --assumeyes --refresh install fleet-agent", Upgrade: "dnf --assumeyes --refresh upgrade fleet-agent",
	}
)

// Install is what a device does to have the agent from here, as docs/device.md says it,
// and more patiently: one that has just booted may be without a network yet.
func (s *Shop) Install(with Manager) string {
	script := "set -e\n"
	for _, t := range with.trust {
		script += fmt.Sprintf("curl --fail --silent --show-error --retry 60 --retry-delay 1 --retry-all-errors --output %s %s/%s\n", t.path, s.Trust.URL, t.name)
	}
	return script + with.Install
}

// Present writes an RPM that has no files and says that what the agent depends on is
// present: dnf on a Debian knows nothing of what dpkg installed. There is no Fedora to
// be had.
func Present(to io.Writer) error {
	present := nfpm.WithDefaults(&nfpm.Info{
		Name: "present", Arch: "all", Platform: "linux", Version: "1", Release: "1", Maintainer: "nobody <nobody@example.com>",
		Description: "What this device has", License: "none",
		Overridables: nfpm.Overridables{Provides: []string{"podman = 4.3", "/bin/sh", "ca-certificates"}},
	})
	packager, err := nfpm.Get("rpm")
	if err == nil {
		err = packager.Package(present, to)
	}
	if err != nil {
		return fmt.Errorf("writing what is present as an RPM: %w", err)
	}
	return nil
}
