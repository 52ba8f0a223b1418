package stories

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/device"
	"github.com/nationtech/harmony-fleet/smoke/helm"
)

const (
	// crowdSize is how many devices there are beside the one with containers.
	crowdSize = 200
	// failures is how often in a row each part is taken away.
	failures = 5
)

// faults takes the parts of an installation away while devices work, and changes what
// they shall run meanwhile. Each time all of it has to arrive, and what was not
// changed has to run on.
func faults(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) error {
		volume, err := i.smallVolume(ctx)
		if err != nil {
			return err
		}
		if err := i.onNodePort(ctx, "with the broker at a port of the node", volume...); err != nil {
			return err
		}
		return i.withLoad(ctx, crowdSize, func(l *load) error {
			for _, part := range []string{"nats", "operator"} {
				if err := l.inARow(ctx, part); err != nil {
					return err
				}
			}
			// Nobody who is connected needs the callout; with the broker gone everybody does.
			for _, parts := range []string{"callout", "nats,callout"} {
				what := fmt.Sprintf("the pods of %s are deleted: what changes meanwhile arrives, and the rest runs on", parts)
				if err := l.step(ctx, what, func() error { return l.deletePods(ctx, parts) }); err != nil {
					return err
				}
			}
			if err := l.restartKubelet(ctx); err != nil {
				return err
			}
			if len(volume) == 0 {
				fmt.Fprintln(l.Progress(), "left out: the cluster has no volume that can be filled up")
			} else if err := l.fillVolume(ctx); err != nil {
				return err
			}
			return l.end(ctx)
		})
	})
}

// deletePods returns when the pods of the components are gone.
func (i *installation) deletePods(ctx context.Context, components string) error {
	_, err := i.Kubectl(ctx, "", "--namespace="+namespace, "delete", "pods", "--selector=app.kubernetes.io/component in ("+components+")", "--timeout=2m")
	return err
}

// onNodePort brings it up for devices that reach the broker at a port of the node: a
// forwarded one ends with the pod. A few words tell of the other values.
func (i *installation) onNodePort(ctx context.Context, told string, settings ...string) error {
	node, err := i.node(ctx)
	if err != nil {
		return err
	}
	values, err := helm.Values("", append(settings, "nats.service.type=NodePort", "nats.tls.hosts={"+node+"}")...)
	if err != nil {
		return err
	}
	if err := i.up(ctx, told, values); err != nil {
		return err
	}
	return i.findBroker(ctx, node)
}

// node is the address of one.
func (i *installation) node(ctx context.Context) (string, error) {
	return i.Kubectl(ctx, "", "get", "nodes", `--output=jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
}

// findBroker asks at which port of the node devices reach it.
func (i *installation) findBroker(ctx context.Context, node string) error {
	port, err := i.Kubectl(ctx, "", "--namespace="+namespace, "get", "service", product+"-nats", "--output=jsonpath={.spec.ports[0].nodePort}")
	i.url = "tls://" + node + ":" + port
	return err
}

// load is devices that work: one with containers, and a crowd.
type load struct {
	*installation
	machine *machine
	crowd   *crowd
	// steady is never changed; moving and many are at each step.
	steady, moving, many workload
	changes              int
	kept                 []string // what runs of steady, on all devices
}

// withLoad tells a story about devices, and has them leave.
func (i *installation) withLoad(ctx context.Context, size int, story func(*load) error) (err error) {
	l := &load{installation: i}
	l.machine, err = newMachine(ctx, i.Cluster)
	defer func() { err = errors.Join(err, l.machine.stop()) }()
	if err != nil {
		return err
	}
	image := l.machine.registry.Ref("hello:v1")
	l.steady = workload{name: "steady", group: "a, " + crowdGroup, image: image, devices: 1 + int32(size)}
	l.moving = workload{name: "moving", group: "a", image: image, devices: 1}
	l.many = workload{name: "many", group: crowdGroup, image: image, devices: int32(size)}
	defer func() {
		if l.crowd != nil {
			l.crowd.stop()
		}
	}()
	err = i.Step(fmt.Sprintf("this host joins, and %d devices without containers", size), func() (err error) {
		if err := l.machine.enrol(ctx, i.url); err != nil {
			return i.explain(ctx, l.machine, err)
		}
		l.crowd, err = newCrowd(ctx, i, l.machine, size)
		return err
	})
	if err != nil {
		return err
	}
	if err := l.step(ctx, "all of them run what they shall", func() error { return i.apply(ctx, l.steady) }); err != nil {
		return err
	}
	return story(l)
}

// inARow deletes the pods of a part as soon as those before are ready, whoever has come
// back by then, and has something of its own to be run each time.
func (l *load) inARow(ctx context.Context, part string) error {
	var added []workload
	happen := func() error {
		for n := range failures {
			if err := l.deletePods(ctx, part); err != nil {
				return err
			}
			added = append(added, workload{name: fmt.Sprintf("%s-%d", part, n), group: crowdGroup, image: l.many.image, devices: l.many.devices})
			if err := l.apply(ctx, added[n]); err != nil {
				return err
			}
			if err := l.ready(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	what := fmt.Sprintf("the pods of %s are deleted, %d times in a row: what is new each time arrives, and the rest runs on", part, failures)
	return l.Step(what, func() error {
		err := l.survive(ctx, happen)
		for _, w := range added {
			if err == nil {
				err = l.settled(ctx, w)
			}
			if err == nil {
				err = l.remove(ctx, w)
			}
		}
		return l.troubles(ctx, err)
	})
}

// step lets something happen, changes two Deployments, and looks at all three.
func (l *load) step(ctx context.Context, what string, happen func() error) error {
	return l.Step(what, func() error { return l.troubles(ctx, l.survive(ctx, happen)) })
}

func (l *load) survive(ctx context.Context, happen func() error) error {
	if err := happen(); err != nil {
		return err
	}
	l.changes++
	l.moving.image = l.machine.registry.Ref(fmt.Sprintf("hello:v%d", 1+l.changes%2))
	l.many.image = l.machine.registry.Ref(fmt.Sprintf("hello:v%d", l.changes))
	for _, changed := range []workload{l.moving, l.many} {
		if err := l.apply(ctx, changed); err != nil {
			return err
		}
	}
	for _, w := range []workload{l.moving, l.many, l.steady} {
		if err := l.settled(ctx, w); err != nil {
			return err
		}
	}
	return l.ranOn(ctx)
}

// ranOn is an error unless every device runs what it ran of steady at first.
func (l *load) ranOn(ctx context.Context) error {
	var now []string
	for _, d := range l.devices() {
		runs, err := d.Running(ctx, l.steady.name)
		if err != nil {
			return err
		}
		for line := range strings.Lines(runs) {
			now = append(now, strings.TrimSpace(line))
		}
	}
	if l.kept == nil {
		l.kept = now
	}
	if len(now) != int(l.steady.devices) {
		return fmt.Errorf("%s runs %d times, want %d", l.steady.name, len(now), l.steady.devices)
	}
	if diff := cmp.Diff(l.kept, now); diff != "" {
		return fmt.Errorf("nothing of %s was changed, and of what runs was (-) and is (+)\n%s", l.steady.name, diff)
	}
	return nil
}

// devices are the one and the many.
func (l *load) devices() []device.Device { return []device.Device{l.machine, l.crowd} }

// troubles adds to an error what it is with all of them.
func (l *load) troubles(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return l.explain(ctx, l.machine, fmt.Errorf("%w\ndevices without containers:\n%s", err, l.crowd.Log(ctx)))
}

// restartKubelet has the new kubelet find the pods of the old one as they are, and
// make one.
func (l *load) restartKubelet(ctx context.Context) error {
	pods := func() (string, error) {
		return l.Kubectl(ctx, "", "--namespace="+namespace, "get", "pods", `--output=jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].containerID}{"\n"}{end}`)
	}
	before, err := pods()
	if err != nil {
		return err
	}
	err = l.step(ctx, "the kubelet is killed, and starts again", l.RestartKubelet)
	if errors.Is(err, cluster.ErrUnable) {
		fmt.Fprintln(l.Progress(), "left out:", err)
		return nil
	}
	if err != nil {
		return err
	}
	if after, err := pods(); err != nil || after != before {
		return errors.Join(fmt.Errorf("pods and their containers were\n%sand are\n%s", before, after), err)
	}
	return l.step(ctx, "and makes a pod", func() error { return l.deletePods(ctx, "operator") })
}

// end takes the devices and all else away.
func (l *load) end(ctx context.Context) error {
	for _, w := range []workload{l.steady, l.moving, l.many} {
		if err := l.remove(ctx, w); err != nil {
			return err
		}
	}
	return l.down(ctx)
}
