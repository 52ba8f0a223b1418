package stories

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nationtech/harmony-fleet/agent/bus"
	"github.com/nationtech/harmony-fleet/agent/config"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/roster"
	"github.com/nationtech/harmony-fleet/smoke/device/simulated"
)

// crowd is many simulated devices, each with a key and a policy of its own. It is
// looked at as if it were one device.
type crowd struct {
	members []*member
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// crowdGroup is the value of the label group that all of them have.
const crowdGroup = "crowd"

// member is one of them.
type member struct {
	*simulated.Device
	// cut says that it has lost its connection since somebody last looked.
	cut atomic.Bool
}

// newCrowd lets so many devices in and runs them. They find the broker as the
// machine does, which has joined already. Stop it in any case but an error.
func newCrowd(ctx context.Context, i *installation, m *machine, size int) (*crowd, error) {
	agent, err := config.Load(m.path("config.toml"))
	if err != nil {
		return nil, err
	}
	admin, err := roster.NewAdmin(i.Config())
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	c := &crowd{members: make([]*member, size)}
	joining, joinCtx := errgroup.WithContext(ctx)
	joining.SetLimit(8)
	for n := range c.members {
		joining.Go(func() (err error) {
			id := wire.DeviceID(fmt.Sprintf("crowd-%03d", n))
			to := bus.Target{
				Device: id, NATS: agent.NATS, TrustedKeys: agent.Agent.TrustedKeys,
				Credentials: v1alpha1.Credentials{Type: v1alpha1.CredentialNKey, SeedFile: m.path(string(id) + ".seed")},
			}
			if err := enrol(joinCtx, admin, to); err != nil {
				return err
			}
			c.members[n], err = newMember(to)
			return err
		})
	}
	if err := joining.Wait(); err != nil {
		return nil, fmt.Errorf("letting a crowd of devices in: %w", err)
	}
	// They outlive the step that they are made in.
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	for _, one := range c.members {
		c.running.Go(func() { one.Run(running) })
	}
	return c, nil
}

// enrol writes a device's policy and has it join with a key that it makes, as
// `kubectl fleet enroll` and `fleet-agent join` do.
func enrol(ctx context.Context, admin *roster.Admin, to bus.Target) error {
	seed, err := bus.NewKey()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Clean(to.Credentials.SeedFile), seed, 0o600); err != nil {
		return err
	}
	if err := admin.PutPolicy(ctx, to.Device, policy.Policy{Labels: map[string][]string{"group": {crowdGroup}}}, ""); err != nil {
		return err
	}
	token := policy.NewToken(to.Device)
	if err := admin.PutEnrolment(ctx, to.Device, token.Enrolment(time.Now().Add(time.Hour))); err != nil {
		return err
	}
	// The callout hears of a policy a moment later.
	return eventually(ctx, func() error { return bus.Join(ctx, to, token) })
}

func newMember(to bus.Target) (one *member, err error) {
	one = &member{}
	one.Device, err = simulated.New(simulated.Options{
		Target: to, Labels: map[string]string{"group": crowdGroup}, Connection: one.heard,
	})
	return one, err
}

func (m *member) heard(_ string, problem error) {
	if problem != nil {
		m.cut.Store(true)
	}
}

// losses is how many of them have lost their connection since the last time.
func (c *crowd) losses() (lost int) {
	for _, one := range c.members {
		if one.cut.Swap(false) {
			lost++
		}
	}
	return lost
}

func (c *crowd) stop() {
	if c.cancel != nil {
		c.cancel()
		c.running.Wait()
	}
}

// Running implements device.Device.
func (c *crowd) Running(ctx context.Context, of ...string) (string, error) {
	var lines []string
	for _, one := range c.members {
		line, err := one.Running(ctx, of...)
		if err != nil {
			return "", err
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n"), nil
}

// Log implements device.Device.
func (c *crowd) Log(ctx context.Context) string {
	var lines []string
	for _, one := range c.members {
		if line := one.Log(ctx); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
