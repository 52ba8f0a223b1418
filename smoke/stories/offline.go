package stories

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/line"
)

// offline has a device at the end of a line that is cut while people change their mind,
// and which is bad then. Before that there are two devices with its identity for a while.
func offline(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) error {
		if err := i.onNodePort(ctx, "with the broker at a port of the node"); err != nil {
			return err
		}
		return i.remote(ctx, func(r *remote) error {
			for _, part := range []func(context.Context) error{r.clone, r.away, r.back, r.badLine} {
				if err := part(ctx); err != nil {
					return err
				}
			}
			return r.discharge(ctx)
		})
	})
}

// remote is a device at the end of a line.
type remote struct {
	*patient
	line *line.Line
}

const (
	// leaving is a Deployment that is deleted while the device is away.
	leaving = "leaving"
	// changes is how often moving changes meanwhile.
	changes = 3
)

// remote tells a story about one.
func (i *installation) remote(ctx context.Context, story func(*remote) error) (err error) {
	m, err := newMachine(ctx, i.Cluster)
	defer func() { err = errors.Join(err, m.stop()) }()
	if err != nil {
		return err
	}
	r := &remote{}
	if r.line, err = line.Lay(ctx, strings.TrimPrefix(i.url, "tls://"), i.Progress()); err != nil {
		return err
	}
	defer r.line.Remove()
	m.within = r.line.Inside()
	if r.patient, err = i.admit(ctx, m, leaving); err != nil {
		return err
	}
	return story(r)
}

// away cuts the device off, and changes what it shall run.
func (r *remote) away(ctx context.Context) error {
	var cut time.Time
	return r.tell(ctx,
		step{"the line is cut, one Deployment changes three times and one is deleted", func() error {
			cut = time.Now()
			r.line.Cut()
			for range changes {
				if err := r.move(ctx); err != nil {
					return err
				}
			}
			return r.remove(ctx, workload{name: leaving})
		}},
		step{"the Device is unreachable, since a time that is true", func() error { return r.unreachable(ctx, cut) }},
		step{"Deployments say so too, and are held up by nobody", func() error {
			if err := r.counted(ctx, r.moving, v1alpha1.Aggregate{MatchedDeviceCount: 1, Pending: 1, Unreachable: 1}); err != nil {
				return err
			}
			if err := r.counted(ctx, r.steady, v1alpha1.Aggregate{MatchedDeviceCount: 1, Succeeded: 1, Unreachable: 1}); err != nil {
				return err
			}
			_, err := r.Kubectl(ctx, "", "wait", "fdep/moving", "fdep/steady", "--for=condition=Ready", "--timeout=1m")
			return err
		}},
		step{"the device itself says that it is not connected, and runs on", func() error {
			return eventually(ctx, func() error { return r.machine.says(ctx, "not connected since") })
		}},
	)
}

// unreachable waits until the Device is, since a time after the cut.
func (r *remote) unreachable(ctx context.Context, cut time.Time) error {
	reachable := func(field string) (string, error) {
		return r.Kubectl(ctx, "", "get", "fdev", "pi-1", `--output=jsonpath={.status.conditions[?(@.type=="Reachable")].`+field+`}`)
	}
	return eventually(ctx, func() error {
		reason, err := reachable("reason")
		if err == nil && reason != v1alpha1.ReasonHeartbeatMissed {
			err = fmt.Errorf("the Device says %q", reason)
		}
		if err != nil {
			return err
		}
		text, err := reachable("lastTransitionTime")
		if err != nil {
			return err
		}
		since, err := time.Parse(time.RFC3339, text)
		if err == nil && (since.Before(cut.Truncate(time.Second)) || since.After(time.Now())) {
			err = fmt.Errorf("it was cut off at %s, and is unreachable since %s", cut, since)
		}
		return err
	})
}

// back lets it come back: it goes straight to the newest.
func (r *remote) back(ctx context.Context) error {
	return r.tell(ctx,
		step{"the line is whole again: the newest version runs, and the deleted one is gone", func() error {
			r.line.Mend()
			if err := r.settled(ctx, r.moving); err != nil {
				return err
			}
			if err := r.settled(ctx, r.steady); err != nil {
				return err
			}
			if err := r.until(ctx, "True", "get", "fdev", "pi-1", `--output=jsonpath={.status.conditions[?(@.type=="Reachable")].status}`); err != nil {
				return err
			}
			return eventually(ctx, func() error {
				left, err := r.machine.podman.Run(ctx, "ps", "--all", "--quiet", "--filter=name="+leaving)
				if err == nil && left != "" {
					err = fmt.Errorf("of what was deleted there is %s", left)
				}
				return err
			})
		}},
		step{"nobody has asked the registry for a version between", func() error {
			for number := 1; number <= r.number; number++ {
				if pulls := r.machine.registry.Pulls(repository(number)); pulls > 0 != (number == r.number) {
					return fmt.Errorf("version %d was pulled %d times, and %d is the newest", number, pulls, r.number)
				}
			}
			return nil
		}},
	)
}

// badLine has changes arrive over a line that is bad, each by a new connection: the
// broker's side has ended the one before, or a NAT has forgotten it and the agent finds
// out by itself.
func (r *remote) badLine(ctx context.Context) error {
	for _, bad := range []struct {
		what  string
		fault line.Fault
		end   func()
	}{
		{"the line loses 30 % of all packets", line.Fault{Loss: 0.3}, r.line.HangUp},
		{"the line takes 32 kbit/s, and no packets above 1280 bytes", line.Fault{Rate: 32_000, MTU: 1280}, r.line.HangUp},
		{"a NAT has forgotten the connection, and an answer takes 4 s", line.Fault{Delay: 2 * time.Second}, r.line.Forget},
	} {
		err := r.tell(ctx, step{bad.what + ": a change arrives, and the agent is calm", func() error {
			r.line.Break(bad.fault)
			bad.end()
			return r.machine.calm(func() error {
				if err := r.move(ctx); err != nil {
					return err
				}
				return r.settled(ctx, r.moving)
			})
		}})
		if err != nil {
			return err
		}
	}
	r.line.Break(line.Fault{})
	return nil
}
