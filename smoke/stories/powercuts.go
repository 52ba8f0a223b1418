package stories

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/device/vm"
	"github.com/nationtech/harmony-fleet/smoke/shop"
)

// cutsVariable says how many power cuts there shall be; one for each step of an apply
// is what there is else.
const cutsVariable = "POWERCUTS"

// maxDelay of a power cut after what it waits for has begun.
const maxDelay = 400 * time.Millisecond

// powercuts switches a virtual machine off at every step of an apply: each time it boots
// to the old or the new version, also without a network, and gets to the new one. Then
// its clock is wrong.
func powercuts(ctx context.Context, c *cluster.Cluster) error {
	cuts, err := cutsWanted()
	if err != nil {
		return err
	}
	return installing(ctx, c, func(i *installation) (err error) {
		if err := i.onNodePort(ctx, "with the broker at a port of the node"); err != nil {
			return err
		}
		g, err := i.newGuest(ctx, shop.Apt)
		defer func() { err = errors.Join(err, g.stop()) }()
		if err != nil {
			return err
		}
		p := &outage{installation: i, guest: g, version: "v1"}
		if err := p.step(ctx, "a machine is booted, joins, and runs something", p.begin); err != nil {
			return err
		}
		for n := range cuts {
			if err := p.cut(ctx, n); err != nil {
				return err
			}
		}
		for _, s := range []struct {
			what string
			run  func(context.Context) error
		}{
			{"it boots without a network, in 1970: the container runs, and with network and time it hears what is new", p.past},
			{"it boots in ten years: the container runs, and with the time it hears what is new", p.future},
			{"what it runs is deleted", func(ctx context.Context) error { return i.remove(ctx, workload{name: "hello"}) }},
		} {
			if err := p.step(ctx, s.what, s.run); err != nil {
				return err
			}
		}
		return i.down(ctx)
	})
}

func cutsWanted() (int, error) {
	text := os.Getenv(cutsVariable)
	if text == "" {
		return len(moments), nil
	}
	cuts, err := strconv.Atoi(text)
	if err != nil || cuts < 1 {
		return 0, fmt.Errorf("%s: %q is not a number of power cuts", cutsVariable, text)
	}
	return cuts, nil
}

// outage is a device that loses its power, and what it shall run.
type outage struct {
	*installation
	guest   *guest
	version string // of hello
}

// other is the version that it does not run.
func (p *outage) other() string { return map[string]string{"v1": "v2", "v2": "v1"}[p.version] }

func (p *outage) step(ctx context.Context, what string, run func(context.Context) error) error {
	return p.Step(what, func() error { return p.explain(ctx, p.guest, run(ctx)) })
}

// begin installs by hand, on a machine without cloud-init.
func (p *outage) begin(ctx context.Context) error {
	if err := p.guest.bare(ctx, p.installation, ""); err != nil {
		return err
	}
	if err := p.guest.enter(ctx, p.installation); err != nil {
		return err
	}
	return p.deploy(ctx, p.guest, p.version)
}

// moment is when the power goes.
type moment struct {
	name string
	// action of the agent that has begun, as it logs it; "" for the transfer of an
	// image, which the registry sees.
	action string
}

// moments are the steps of an apply. The last is when the new one runs: that is
// recorded, and the old one removed.
var moments = []moment{{"pull", ""}, {"create", "Create"}, {"stop", "Stop"}, {"start", "Start"}, {"record", "Remove"}}

// cut has another version applied, cuts the power, and looks what comes back.
func (p *outage) cut(ctx context.Context, n int) error {
	m := moments[n%len(moments)]
	offline := n%2 == 0 // each moment in turn, since their number is odd
	before, next := p.version, p.other()
	delay := rand.N(maxDelay)
	how := "the network there"
	if offline {
		how = "the network gone"
	}
	return p.step(ctx, fmt.Sprintf("power cut %d, %d ms after %s begins; it boots with %s", n+1, delay.Milliseconds(), m.name, how), func(ctx context.Context) error {
		if _, err := p.guest.Podman(ctx, "image", "prune", "--all", "--force"); err != nil {
			return err
		}
		if err := p.await(ctx, m, next); err != nil {
			return err
		}
		time.Sleep(delay)
		p.guest.Cut()
		p.version = next
		begin := time.Now()
		if err := p.guest.Boot(ctx, vm.Boot{Offline: offline}); err != nil {
			return err
		}
		booted := time.Since(begin)
		first, err := p.serving(ctx, before, next)
		if err != nil {
			return fmt.Errorf("neither %s nor %s runs after the boot: %w", before, next, err)
		}
		served := time.Since(begin)
		if err := p.guest.Plug(true); err != nil {
			return err
		}
		if err := p.arrives(ctx); err != nil {
			return err
		}
		fmt.Fprintf(p.Progress(), "    booted in %.0f s, %s of %s to %s served after %.0f s, all done after %.0f s\n",
			booted.Seconds(), first, before, next, served.Seconds(), time.Since(begin).Seconds())
		return nil
	})
}

// await applies the version, and returns when that has got as far.
func (p *outage) await(ctx context.Context, m moment, version string) error {
	shown, blobs := p.guest.Shown(), p.guest.registry.Blobs("hello")
	if err := p.apply(ctx, p.hello(version)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if m.action != "" {
		return p.guest.Await(ctx, shown, "action="+m.action)
	}
	for p.guest.registry.Blobs("hello") == blobs {
		select {
		case <-ctx.Done():
			return errors.New("the device asks for no image")
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

func (p *outage) hello(version string) workload {
	return workload{name: "hello", group: "a", image: p.guest.Reach(p.guest.ref("hello:" + version)), port: vm.Port, devices: 1}
}

// serving waits until one of the versions answers, and tells which.
func (p *outage) serving(ctx context.Context, versions ...string) (first string, err error) {
	err = eventually(ctx, func() error {
		var errs []error
		for _, version := range versions {
			err := serves(ctx, p.guest.URL(), version)
			if err == nil {
				first = version
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	return first, err
}

// arrives waits until the device runs the version, says so, and has nothing else.
func (p *outage) arrives(ctx context.Context) error {
	if err := p.settled(ctx, p.hello(p.version)); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		all, err := p.guest.Podman(ctx, "ps", "--all", "--quiet")
		if err == nil && len(strings.Fields(all)) != 1 {
			err = fmt.Errorf("there are the containers %q, want one", all)
		}
		return errors.Join(err, serves(ctx, p.guest.URL(), p.version))
	})
}

// past is a device whose clock has no battery.
func (p *outage) past(ctx context.Context) error {
	return p.wrongTime(ctx, vm.Boot{Clock: time.Unix(0, 0), Offline: true})
}

// future is one in which every certificate has expired.
func (p *outage) future(ctx context.Context) error {
	return p.wrongTime(ctx, vm.Boot{Clock: time.Now().AddDate(10, 0, 0)})
}

func (p *outage) wrongTime(ctx context.Context, o vm.Boot) error {
	g := p.guest
	g.Cut()
	if err := g.Boot(ctx, o); err != nil {
		return err
	}
	if _, err := p.serving(ctx, p.version); err != nil {
		return err
	}
	if err := g.Plug(true); err != nil {
		return err
	}
	// What is applied now cannot arrive yet: the broker's certificate is not valid.
	p.version = p.other()
	if err := p.apply(ctx, p.hello(p.version)); err != nil {
		return err
	}
	if err := eventually(ctx, func() error {
		status, err := g.Run(ctx, "fleet-agent status || true")
		if err == nil && !strings.Contains(status, "check the device's clock") {
			err = fmt.Errorf("fleet-agent status does not say that the clock may be wrong:\n%s", status)
		}
		return err
	}); err != nil {
		return err
	}
	if _, err := g.Run(ctx, fmt.Sprintf("date --set=@%d", time.Now().Unix())); err != nil {
		return err
	}
	return p.arrives(ctx)
}
