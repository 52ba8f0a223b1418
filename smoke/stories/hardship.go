package stories

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// hardship lets this host's podman and disk fail as a device's do. What runs goes on,
// people are told what is wrong, and all is well again by itself when that is over.
func hardship(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) (err error) {
		if err := i.up(ctx, "with no values", nil); err != nil {
			return err
		}
		s := &sufferer{installation: i}
		s.machine, err = newMachineOn(ctx, c, diskBytes)
		defer func() { err = errors.Join(err, s.machine.stop()) }()
		if err != nil {
			return err
		}
		forward, err := i.Forward(ctx, namespace, "service/"+product+"-nats", 4222)
		if err != nil {
			return err
		}
		defer forward.Stop()
		err = i.Step("this host joins, with a small disk of its own, and runs what it shall", func() error {
			return i.explain(ctx, s.machine, s.begin(ctx, fmt.Sprintf("tls://localhost:%d", forward.Port)))
		})
		if err != nil {
			return err
		}
		for _, h := range s.hardships() {
			if err := s.endure(ctx, h); err != nil {
				return err
			}
		}
		for _, w := range []workload{s.steady, s.moving} {
			if err := i.remove(ctx, w); err != nil {
				return err
			}
		}
		return i.down(ctx)
	})
}

// sufferer is a device with a service that is never changed, and one that is each time.
type sufferer struct {
	*installation
	machine        *machine
	steady, moving workload
	changes        int
	kept, url      string // the container of steady, and where it answers
}

// trouble is something that happens to the device.
type trouble struct {
	what string
	// begin has it happen, and end undoes that.
	begin, end func(context.Context) error
	// reason that the status must have then; "" when a change is to be made as ever.
	reason string
}

// begin lets the device in.
func (s *sufferer) begin(ctx context.Context, url string) error {
	image := s.machine.registry.Ref("hello:v1")
	s.steady = workload{name: "steady", group: "a", image: image, devices: 1}
	s.moving = workload{name: "moving", group: "a", image: image, devices: 1}
	if err := s.machine.enrol(ctx, url); err != nil {
		return err
	}
	for _, w := range []workload{s.steady, s.moving} {
		if err := s.apply(ctx, w); err != nil {
			return err
		}
	}
	for _, w := range []workload{s.steady, s.moving} {
		if err := s.settled(ctx, w); err != nil {
			return err
		}
	}
	var err error
	if s.kept, err = s.machine.containers(ctx, s.steady.name); err != nil {
		return err
	}
	address, err := s.machine.podman.Run(ctx, "inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", s.kept)
	s.url = fmt.Sprintf("http://%s:%d", strings.TrimSpace(address), images.Port)
	return err
}

// endure has one thing happen while something is to be changed, and then be over.
func (s *sufferer) endure(ctx context.Context, h trouble) error {
	return s.Step(h.what, func() error {
		begin, before, err := s.spent()
		if err != nil {
			return err
		}
		err = h.begin(ctx)
		if err == nil {
			err = s.told(ctx, h.reason)
		}
		if err == nil {
			err = process.Answers(ctx, s.url)
		}
		if err == nil {
			err = s.whole()
		}
		if err = errors.Join(err, h.end(ctx)); err == nil {
			err = s.recovered(ctx)
		}
		if err == nil {
			err = s.calm(begin, before)
		}
		return s.explain(ctx, s.machine, err)
	})
}

// change has the device run another version of what moves.
func (s *sufferer) change(ctx context.Context) error {
	s.changes++
	s.moving.image = s.machine.registry.Ref(fmt.Sprintf("hello:v%d", 1+s.changes%2))
	return s.apply(ctx, s.moving)
}

// told changes something, and waits until the status says why that is not done, if it
// is not to be.
func (s *sufferer) told(ctx context.Context, reason string) error {
	if err := s.change(ctx); err != nil {
		return err
	}
	if reason == "" {
		return s.settled(ctx, s.moving)
	}
	return eventually(ctx, func() error {
		out, err := s.Kubectl(ctx, "", "get", "fdep", s.moving.name, "--output=json")
		if err != nil {
			return err
		}
		var d v1alpha1.Deployment
		if err := json.Unmarshal([]byte(out), &d); err != nil {
			return fmt.Errorf("reading the Deployment %s: %w", s.moving.name, err)
		}
		last := d.Status.Aggregate.LastError
		if d.Status.ObservedGeneration != d.Generation || last == nil || last.Reason != reason || last.Message == "" {
			return fmt.Errorf("the status is %+v with the error %+v, want one that is %s", d.Status.Aggregate, last, reason)
		}
		return nil
	})
}

// recovered waits until the change is made, and sees that the rest was left alone.
func (s *sufferer) recovered(ctx context.Context) error {
	for _, w := range []workload{s.moving, s.steady} {
		if err := s.settled(ctx, w); err != nil {
			return err
		}
	}
	container, err := s.machine.containers(ctx, s.steady.name)
	if err == nil && container != s.kept {
		err = fmt.Errorf("the container of %s is %q, and was %q: nothing of it was changed", s.steady.name, container, s.kept)
	}
	return err
}

// whole sees that no file of the agent's state is half of one.
func (s *sufferer) whole() error {
	entries, err := os.ReadDir(s.machine.state)
	if err != nil {
		return fmt.Errorf("looking at the agent's state: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".json") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(s.machine.state, entry.Name()))
		if err != nil || !json.Valid(content) {
			return errors.Join(fmt.Errorf("%s is not whole: %q", entry.Name(), content), err)
		}
	}
	return nil
}

// mostShare is the share of one processor that an agent must not use up over a
// hardship, which it is far below: one that tries without a pause takes all of it.
const mostShare = 0.25

// mostSteps is how many steps an agent may begin meanwhile: those of a change, and some
// that fail and are tried again after ever longer pauses.
const mostSteps = 40

// calm is an error when the agent was busy since it had spent so much.
func (s *sufferer) calm(begin time.Time, before spending) error {
	now, after, err := s.spent()
	if err != nil {
		return err
	}
	steps := after.steps - before.steps
	share := (after.processor - before.processor).Seconds() / now.Sub(begin).Seconds()
	if share > mostShare || steps > mostSteps {
		return fmt.Errorf("the agent used %.0f %% of a processor and began %d steps in %s", 100*share, steps, now.Sub(begin))
	}
	fmt.Fprintf(s.Progress(), "    the agent used %.1f %% of a processor and began %d steps\n", 100*share, steps)
	return nil
}

// spending is what the agent has done since it was started.
type spending struct {
	processor time.Duration
	steps     int
}

// tick is the unit of processor time in /proc, on all that Go runs on.
const tick = 10 * time.Millisecond

func (s *sufferer) spent() (at time.Time, sum spending, err error) {
	at = time.Now()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.machine.agent.PID()))
	if err != nil {
		return at, sum, fmt.Errorf("reading what the agent has spent: %w", err)
	}
	// 123 (name) R …: the 14th and 15th are the time in its own mode and the kernel's.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	for _, field := range fields[11:13] {
		ticks, err := strconv.Atoi(string(field))
		if err != nil {
			return at, sum, fmt.Errorf("reading what the agent has spent: %w", err)
		}
		sum.processor += time.Duration(ticks) * tick
	}
	log, err := os.ReadFile(s.machine.path("agent.log"))
	sum.steps = bytes.Count(log, []byte("step begins"))
	return at, sum, err
}
