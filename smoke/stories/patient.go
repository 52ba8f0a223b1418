package stories

import (
	"context"
	"errors"
	"fmt"

	"github.com/nationtech/harmony-fleet/smoke/images"
)

// patient is a device that bad things happen to.
type patient struct {
	*installation
	machine *machine
	// steady is never changed, and moving is.
	steady, moving workload
	kept           string // what runs of steady: its id, and since when
	number         int    // of moving's version
}

// admit has a machine join and run two Deployments, and others with the image of steady.
func (i *installation) admit(ctx context.Context, m *machine, others ...string) (*patient, error) {
	p := &patient{installation: i, machine: m}
	p.steady = workload{name: "steady", group: "a", image: m.registry.Ref("hello:v1"), devices: 1}
	p.moving = workload{name: "moving", group: "a", image: p.steady.image, devices: 1}
	all := []workload{p.steady, p.moving}
	for _, name := range others {
		all = append(all, workload{name: name, group: "a", image: p.steady.image, devices: 1})
	}
	return p, i.Step("this host joins, and runs what it shall", func() error {
		err := m.enrol(ctx, i.url)
		for _, w := range all {
			if err == nil {
				err = i.apply(ctx, w)
			}
		}
		for _, w := range all {
			if err == nil {
				err = i.settled(ctx, w)
			}
		}
		if err == nil {
			p.kept, err = m.Running(ctx, p.steady.name)
		}
		return i.explain(ctx, m, err)
	})
}

// tell runs steps, after each of which steady and the agent have run on.
func (p *patient) tell(ctx context.Context, steps ...step) error {
	for _, s := range steps {
		err := p.Step(s.what, func() error {
			err := s.run()
			if err == nil {
				err = errors.Join(p.ranOn(ctx), p.machine.agent.Failure())
			}
			return p.explain(ctx, p.machine, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ranOn is an error unless steady has the container that it had at first.
func (p *patient) ranOn(ctx context.Context) error {
	now, err := p.machine.Running(ctx, p.steady.name)
	if err == nil && (now == "" || now != p.kept) {
		err = fmt.Errorf("the container of %s is %q, and was %q: nothing of it was changed", p.steady.name, now, p.kept)
	}
	return err
}

// move gives moving a version that the device does not have yet.
func (p *patient) move(ctx context.Context) error {
	p.number++
	image, err := images.Hello(fmt.Sprintf("moving-%d", p.number))
	if err != nil {
		return err
	}
	if err := p.machine.registry.Push(repository(p.number)+":v1", image); err != nil {
		return err
	}
	p.moving.image = p.machine.registry.Ref(repository(p.number) + ":v1")
	return p.apply(ctx, p.moving)
}

// repository of a version of moving: each has its own, so that the registry tells which
// were asked for.
func repository(number int) string { return fmt.Sprintf("moving-%d", number) }

// discharge takes everything away.
func (p *patient) discharge(ctx context.Context) error {
	for _, w := range []workload{p.steady, p.moving} {
		if err := p.remove(ctx, w); err != nil {
			return err
		}
	}
	return p.down(ctx)
}
