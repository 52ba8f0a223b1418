package stories

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/device/vm"
	"github.com/nationtech/harmony-fleet/smoke/shop"
)

// guest is a virtual machine as a device, with a shop of packages; and who has it.
type guest struct {
	*person
	*vm.Machine
	arch    string
	shop    *shop.Shop
	manager shop.Manager // by which it has the agent
}

// archVariable says of which architecture machines are, as Go names it; this host's
// when it is empty.
const archVariable = "DEVICE_ARCH"

// newGuest has a shop and no machine yet. Whatever happens, stop it.
func (i *installation) newGuest(ctx context.Context, manager shop.Manager) (g *guest, err error) {
	g = &guest{arch: cmp.Or(os.Getenv(archVariable), runtime.GOARCH), manager: manager}
	if g.person, err = newPerson(ctx, i.Cluster, g.arch); err != nil {
		return g, err
	}
	err = i.Step("the agent's packages are made, and served", func() error {
		if err := os.Mkdir(g.path("shop"), 0o700); err != nil {
			return err
		}
		g.shop, err = shop.Open(ctx, shop.Options{Dir: g.path("shop"), Reach: vm.Reach, Architectures: []string{g.arch}, Progress: i.Progress()})
		if err != nil {
			return err
		}
		return g.shop.Stock(ctx, version.Number)
	})
	return g, err
}

// stop removes everything.
func (g *guest) stop() error {
	var errs []error
	if g.Machine != nil {
		errs = append(errs, g.Machine.Stop())
	}
	if g.shop != nil {
		errs = append(errs, g.shop.Close())
	}
	return errors.Join(append(errs, g.leave())...)
}

// join is what a device does to install the agent and become one of the fleet.
func (g *guest) join(ctx context.Context, i *installation) (script string, err error) {
	command, err := g.fleet(ctx, "enroll", "pi-1", "--label", "group=a", "--url", i.url)
	return g.shop.Install(g.manager) + "\n" + command + "\nsystemctl enable --now fleet-agent", err
}

// bare boots a machine without cloud-init, whose owner has configured it and has not
// installed the agent. It may have more packages of Debian than others.
func (g *guest) bare(ctx context.Context, i *installation, packages string) (err error) {
	if g.Machine, err = vm.New(ctx, vm.Options{Architecture: g.arch, Packages: packages, Progress: i.Progress()}); err != nil {
		return err
	}
	if err := g.Boot(ctx, vm.Boot{}); err != nil {
		return err
	}
	if _, err := g.Run(ctx, "hostnamectl hostname pi-1"); err != nil {
		return err
	}
	for path, content := range own {
		if _, err := g.Run(ctx, fmt.Sprintf("install -D /dev/stdin %s <<'end'\n%send\n", path, content)); err != nil {
			return err
		}
	}
	return nil
}

// enter has a machine that is up install the agent and join.
func (g *guest) enter(ctx context.Context, i *installation) error {
	script, err := g.join(ctx, i)
	if err != nil {
		return err
	}
	_, err = g.Run(ctx, script)
	return err
}

// own are the files of the device's owner, by their paths.
var own = map[string]string{
	"/etc/fleet-agent/conf.d/own.toml":             "[labels]\ngroup = \"a\"\n",
	"/etc/containers/registries.conf.d/story.conf": "[[registry]]\nlocation = \"" + vm.Host + "\"\ninsecure = true\n",
}

// cloudConfig has cloud-init do all of it, at the first boot.
func cloudConfig(script string) (string, error) {
	type file struct {
		Path    string `json:"path"`
		Content string `json:"content"`
	}
	config := struct {
		Hostname string `json:"hostname"`
		Files    []file `json:"write_files"`
		// Run are commands, each one or the words of one.
		Run []string `json:"runcmd"`
	}{Hostname: "pi-1", Run: []string{script, "touch /etc/cloud/cloud-init.disabled"}}
	for path, content := range own {
		config.Files = append(config.Files, file{path, content})
	}
	text, err := json.Marshal(config) // which is YAML
	if err != nil {
		return "", fmt.Errorf("writing what cloud-init shall do: %w", err)
	}
	return "#cloud-config\n" + string(text) + "\n", nil
}

// Podman runs a podman command.
func (g *guest) Podman(ctx context.Context, args ...string) (string, error) {
	return g.Run(ctx, "podman "+quoted(args))
}

// Running implements device.Device.
func (g *guest) Running(ctx context.Context, of ...string) (string, error) {
	return containers(ctx, g.Podman, of)
}

// Agent runs a command of the agent's program.
func (g *guest) Agent(ctx context.Context, args ...string) (string, error) {
	return g.Run(ctx, "fleet-agent "+quoted(args))
}

// quoted are arguments as a shell reads them.
func quoted(args []string) string {
	var all []string
	for _, arg := range args {
		all = append(all, "'"+strings.ReplaceAll(arg, "'", `'\''`)+"'")
	}
	return strings.Join(all, " ")
}

// Reach is where a machine finds this host.
func (g *guest) Reach(address string) string { return vm.Reach(address) }

// Port is always the same.
func (g *guest) Port() (port int, url string, err error) { return vm.Port, g.URL(), nil }

// Log is the end of the journal of the agent, or else of the console.
func (g *guest) Log(ctx context.Context) string {
	if g.Machine == nil {
		return "(there is no machine)"
	}
	log, err := g.Run(ctx, "journalctl --unit=fleet-agent --lines=40 --no-pager --output=cat")
	if err != nil {
		log = fmt.Sprintf("%v\n%s", err, g.Console(20))
	}
	return log
}
