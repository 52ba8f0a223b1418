// Package packages makes the packages of the agent for Debian's and Fedora's families
// of distributions, and those that have them trust our repository. It needs neither
// dpkg nor rpm, and the same commit gives the same bytes until they are signed. It
// publishes nothing: package repository does.
package packages

import (
	"embed"
	"strings"

	"github.com/goreleaser/nfpm/v2/files"

	"github.com/nationtech/harmony-fleet/release/compile"
)

const (
	agent      = "fleet-agent"
	vendor     = "NationTech"
	maintainer = vendor + " <packages@nationtech.io>"
	homepage   = "https://github.com/nationtech/harmony-fleet"
	license    = "Apache-2.0"
	// program that the agent's package is about.
	program = compile.Program("agent/cmd/fleet-agent")
	// podmanFloor is the oldest podman that the agent works with, as it says itself
	// of an older one.
	podmanFloor = "4.3"
	// managedLabel is on every container that the agent made.
	managedLabel = "io.nationtech.fleet.managed"
)

const summary = "Runs the containers of a Harmony Fleet on this device"

const description = summary + `
The agent asks the broker of a fleet what shall run on this device, runs that
with podman, and reports how it does. It knows what shall run also while there
is no network, and containers run on while it is stopped, upgraded or removed.`

// Formats are those of package files, by the ends of their names.
var Formats = []string{"deb", "rpm"}

// Architectures of devices, as Go names them.
var Architectures = []string{"amd64", "arm64"}

// texts are small files of the packages; changelog.yaml is for both.
//
//go:embed files
var texts embed.FS

// entry is a file of the agent's package.
type entry struct {
	to     string // path on the device
	from   string // name of a text; "" for a folder
	format string // "" for all
	kind   string // as the library has it; "" for an ordinary file
}

// layout is what the agent's package has besides the program, its configuration and
// the licence.
var layout = []entry{
	{to: "/usr/lib/systemd/system/fleet-agent.service", from: "fleet-agent.service"},
	{to: "/usr/lib/systemd/user/fleet-agent.service", from: "fleet-agent.user.service"},
	{to: "/usr/lib/sysusers.d/fleet-agent.conf", from: "sysusers.conf"},
	{to: "/usr/lib/tmpfiles.d/fleet-agent.conf", from: "tmpfiles.conf"},
	{to: "/etc/fleet-agent/conf.d"},
	{to: "/usr/share/man/man8/fleet-agent.8.gz", from: "fleet-agent.8", format: "deb"},
	{to: "/usr/share/man/man8/fleet-agent.8.gz", from: "fleet-agent.8", format: "rpm", kind: files.TypeRPMDoc},
	{to: "/usr/share/bash-completion/completions/fleet-agent", from: "fleet-agent.bash"},
	{to: "/usr/share/zsh/vendor-completions/_fleet-agent", from: "fleet-agent.zsh", format: "deb"},
	{to: "/usr/share/zsh/site-functions/_fleet-agent", from: "fleet-agent.zsh", format: "rpm"},
	{to: "/usr/share/fish/vendor_completions.d/fleet-agent.fish", from: "fleet-agent.fish"},
	{to: "/usr/share/doc/fleet-agent/copyright", from: "copyright", format: "deb"},
	{to: "/usr/share/lintian/overrides/fleet-agent", from: "lintian-overrides", format: "deb"},
}

// blanks are filled in where a text has them.
func blanks(date string) *strings.Replacer {
	return strings.NewReplacer("@DATE@", date, "@MANAGED@", managedLabel)
}
