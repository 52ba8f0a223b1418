package stories

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/shop"
)

// dnf has the agent of a virtual machine come, change and go by dnf, under a systemd
// that runs, while a container does. There is no Fedora to be had: the machine is a
// Debian with the real dnf and rpm.
func dnf(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) (err error) {
		if err := i.onNodePort(ctx, "with the broker at a port of the node"); err != nil {
			return err
		}
		g, err := i.newGuest(ctx, shop.Dnf)
		defer func() { err = errors.Join(err, g.stop()) }()
		if err != nil {
			return err
		}
		d := &dnfDevice{installation: i, guest: g}
		for _, s := range []struct {
			what string
			run  func(context.Context) error
		}{
			{"a machine is booted, on which dnf installs the agent from the repository, and it joins", d.begin},
			{"a Deployment runs on it", d.occupy},
			{"dnf upgrades the agent, and the container never notices", d.upgrade},
			{"dnf takes the agent back to the version before, and the container never notices", d.downgrade},
			{"dnf removes the agent and says that the container runs on, as it does", d.withdraw},
			{"the agent that dnf installs again waits to be started, and finds the container then", d.again},
			{"another Deployment comes and goes, and the container is still that of the beginning", d.end},
		} {
			if err := i.Step(s.what, func() error { return i.explain(ctx, g, s.run(ctx)) }); err != nil {
				return err
			}
		}
		return i.down(ctx)
	})
}

// dnfPackages are dnf, and that of rpm by which it checks signatures.
const dnfPackages = "dnf rpm"

// dnfDevice is a device that has dnf.
type dnfDevice struct {
	*installation
	guest *guest
	ran   string // what it runs, from the beginning
}

// begin makes a Debian as much of a Fedora as the agent's package looks for.
func (d *dnfDevice) begin(ctx context.Context) error {
	var present bytes.Buffer
	if err := shop.Present(&present); err != nil {
		return err
	}
	if err := d.guest.bare(ctx, d.installation, dnfPackages); err != nil {
		return err
	}
	script := "set -e\nmkdir -p /etc/pki/rpm-gpg /etc/yum.repos.d\nbase64 --decode >present.rpm <<end\n" +
		base64.StdEncoding.EncodeToString(present.Bytes()) + "\nend\ndnf --assumeyes install ./present.rpm"
	if _, err := d.guest.Run(ctx, script); err != nil {
		return err
	}
	if err := d.guest.enter(ctx, d.installation); err != nil {
		return err
	}
	return eventually(ctx, func() error { return d.describes(ctx, d.guest, version.Tag) })
}

func (d *dnfDevice) occupy(ctx context.Context) (err error) {
	if err := d.deploy(ctx, d.guest, "v1"); err != nil {
		return err
	}
	d.ran, err = d.guest.Running(ctx)
	return err
}

func (d *dnfDevice) upgrade(ctx context.Context) error { return d.upgraded(ctx, d.guest) }

func (d *dnfDevice) downgrade(ctx context.Context) error {
	return d.unnoticed(ctx, d.guest, "dnf --assumeyes downgrade fleet-agent", version.Tag)
}

func (d *dnfDevice) withdraw(ctx context.Context) error {
	out, err := d.guest.Run(ctx, "dnf --assumeyes remove fleet-agent 2>&1")
	if err == nil && !strings.Contains(out, `runs on; "podman rm --force`) {
		err = errors.New("dnf does not say that what ran runs on")
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if _, err := d.guest.Run(ctx, "! systemctl --quiet is-active fleet-agent && ! command -v fleet-agent"); err != nil {
		return fmt.Errorf("the agent is still there: %w", err)
	}
	return errors.Join(d.same(ctx), serves(ctx, d.guest.URL(), "v1"))
}

// same is an error unless that runs which ran at the beginning.
func (d *dnfDevice) same(ctx context.Context) error {
	now, err := d.guest.Running(ctx)
	if err == nil && !strings.Contains(now, d.ran) {
		err = fmt.Errorf("the container was %s, and there are %s", d.ran, now)
	}
	return err
}

func (d *dnfDevice) again(ctx context.Context) error {
	if _, err := d.guest.Run(ctx, d.guest.manager.Install); err != nil {
		return err
	}
	if _, err := d.guest.Run(ctx, "! systemctl --quiet is-active fleet-agent && ! systemctl --quiet is-enabled fleet-agent"); err != nil {
		return fmt.Errorf("the agent was started, or will be: %w", err)
	}
	return d.unnoticed(ctx, d.guest, "systemctl enable --now fleet-agent", "v"+nextRelease)
}

// end has the agent work on what is new, and so look at what is old.
func (d *dnfDevice) end(ctx context.Context) error {
	later := workload{name: "later", group: "a", image: d.guest.Reach(d.guest.ref("hello:v1")), devices: 1}
	if err := d.apply(ctx, later); err != nil {
		return err
	}
	if err := d.settled(ctx, later); err != nil {
		return err
	}
	if err := d.remove(ctx, later); err != nil {
		return err
	}
	if err := d.same(ctx); err != nil {
		return err
	}
	return d.remove(ctx, workload{name: "hello"})
}
