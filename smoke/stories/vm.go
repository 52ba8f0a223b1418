package stories

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/device/vm"
	"github.com/nationtech/harmony-fleet/smoke/shop"
)

// nextRelease is the version of an agent that comes out while devices have this tree's.
const nextRelease = "99.0.0"

// virtual has a virtual machine install the agent and join when it is first booted, and
// takes it through a life; apt upgrades the agent while a container runs.
func virtual(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) (err error) {
		if err := i.onNodePort(ctx, "with the broker at a port of the node"); err != nil {
			return err
		}
		g, err := i.newGuest(ctx, shop.Apt)
		defer func() { err = errors.Join(err, g.stop()) }()
		if err != nil {
			return err
		}
		err = i.Step("a machine is booted, on which cloud-init installs the agent from the repository and joins", func() error {
			return i.explain(ctx, g, g.firstBoot(ctx, i))
		})
		if err != nil {
			return err
		}
		if err := i.life(ctx, g); err != nil {
			return err
		}
		if err := i.Step("apt upgrades the agent, and the container never notices", func() error { return i.explain(ctx, g, i.aptUpgrade(ctx, g)) }); err != nil {
			return err
		}
		return i.down(ctx)
	})
}

// firstBoot returns when cloud-init has done everything, and the Device tells of it.
func (g *guest) firstBoot(ctx context.Context, i *installation) error {
	script, err := g.join(ctx, i)
	if err != nil {
		return err
	}
	config, err := cloudConfig(script)
	if err != nil {
		return err
	}
	if g.Machine, err = vm.New(ctx, vm.Options{Architecture: g.arch, CloudConfig: config, Progress: i.Progress()}); err != nil {
		return err
	}
	if err := g.Boot(ctx, vm.Boot{}); err != nil {
		return err
	}
	if out, err := g.Run(ctx, "cloud-init status --wait --long"); err != nil {
		log, _ := g.Run(ctx, "tail -n 50 /var/log/cloud-init-output.log")
		return fmt.Errorf("%w: %s\n%s", err, out, log)
	}
	return eventually(ctx, func() error { return i.describes(ctx, g, version.Tag) })
}

// describes is an error unless the Device is what was installed.
func (i *installation) describes(ctx context.Context, g *guest, agent string) error {
	out, err := i.Kubectl(ctx, "", "get", "fdev", "pi-1", "--output=json")
	if err != nil {
		return err
	}
	var d v1alpha1.Device
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		return fmt.Errorf("reading the Device: %w", err)
	}
	v := d.Spec.Inventory
	if v == nil || v.Hostname != "pi-1" || v.Architecture != g.arch || !strings.HasPrefix(v.OperatingSystem, "Debian GNU/Linux 12") ||
		!strings.HasPrefix(v.PodmanVersion, "4.3.") || v.AgentVersion != agent || v.CPUCount != 2 || v.MemoryBytes < 500<<20 || d.Labels["group"] != "a" {
		return fmt.Errorf("the Device has the labels %v and the inventory %+v", d.Labels, v)
	}
	return nil
}

// aptUpgrade has a later version come out while something runs.
func (i *installation) aptUpgrade(ctx context.Context, g *guest) error {
	if err := i.deploy(ctx, g, "v1"); err != nil {
		return err
	}
	if err := i.upgraded(ctx, g); err != nil {
		return err
	}
	return i.remove(ctx, workload{name: "hello"})
}

// upgraded has a later version come out, and the machine's agent become that.
func (i *installation) upgraded(ctx context.Context, g *guest) error {
	if err := g.shop.Stock(ctx, nextRelease); err != nil {
		return err
	}
	return i.unnoticed(ctx, g, g.manager.Upgrade, "v"+nextRelease)
}

// unnoticed has a machine do something that ends with an agent of that version: the
// containers that it runs stay the same.
func (i *installation) unnoticed(ctx context.Context, g *guest, command, agent string) error {
	before, err := g.Running(ctx)
	if err != nil {
		return err
	}
	if _, err := g.Run(ctx, command); err != nil {
		return err
	}
	if err := eventually(ctx, func() error { return i.describes(ctx, g, agent) }); err != nil {
		return err
	}
	after, err := g.Running(ctx)
	if err == nil && after != before {
		err = fmt.Errorf("the container was %s and is %s", before, after)
	}
	return err
}
