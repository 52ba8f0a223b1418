package stories

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/images"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// hardship lets this host's podman and disk fail as a device's do. What runs goes on,
// people are told what is wrong, and all is well again by itself when that is over.
func hardship(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) (err error) {
		if err := i.onNodePort(ctx, "with the broker at a port of the node"); err != nil {
			return err
		}
		m, err := newMachineOn(ctx, c, diskBytes)
		defer func() { err = errors.Join(err, m.stop()) }()
		if err != nil {
			return err
		}
		p, err := i.admit(ctx, m)
		if err != nil {
			return err
		}
		s := &sufferer{patient: p}
		if err := s.find(ctx); err != nil {
			return err
		}
		for _, h := range s.hardships() {
			if err := s.endure(ctx, h); err != nil {
				return err
			}
		}
		return s.discharge(ctx)
	})
}

// sufferer is a patient whose own parts fail.
type sufferer struct {
	*patient
	url string // where steady answers
}

// trouble is something that happens to the device.
type trouble struct {
	what string
	// begin has it happen, and end undoes that.
	begin, end func(context.Context) error
	// reason that the status must have then; "" when a change is to be made as ever.
	reason string
}

// find finds out where steady answers.
func (s *sufferer) find(ctx context.Context) error {
	id, _, _ := strings.Cut(s.kept, " ")
	address, err := s.machine.podman.Run(ctx, "inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", id)
	s.url = fmt.Sprintf("http://%s:%d", strings.TrimSpace(address), images.Port)
	return err
}

// endure has one thing happen while something is to be changed, and then be over.
func (s *sufferer) endure(ctx context.Context, h trouble) error {
	return s.tell(ctx, step{h.what, func() error {
		return s.machine.calm(func() error {
			err := h.begin(ctx)
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
				err = s.settled(ctx, s.moving)
			}
			if err == nil {
				err = s.settled(ctx, s.steady)
			}
			return err
		})
	}})
}

// change has the device run another version of what moves, which it may have had: its
// disk is small.
func (s *sufferer) change(ctx context.Context) error {
	s.number++
	s.moving.image = s.machine.registry.Ref(fmt.Sprintf("hello:v%d", 1+s.number%2))
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
