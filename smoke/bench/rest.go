package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/procfs"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// rest is a time in which nothing happened, as long as some heartbeats.
type rest struct {
	took          time.Duration
	agent, podman usage
	// traffic of it in bytes, and that of one look at the manifest after it.
	traffic, look float64
	// beginning is the traffic from the beginning of a session to that of the rest, and
	// calm the time between these.
	beginning float64
	calm      time.Duration
}

// day is the traffic of one in bytes, where a rest has so many in a second.
func (r rest) day(rate float64) float64 {
	return rate*secondsPerDay + looksPerDay*r.look + sessionsPerDay*r.session(rate)
}

// session is the traffic with which one begins.
func (r rest) session(rate float64) float64 { return r.beginning - rate*r.calm.Seconds() }

// usage is what a process took in a rest.
type usage struct {
	spent
	resident, proportional, anonymous series // memory in MiB
}

// spent is what a process has taken so far: CPU time in seconds, and bytes that it had
// the disk write.
type spent struct{ cpu, written float64 }

// percent of one core.
func (r rest) percent(u usage) float64 { return 100 * u.cpu / r.took.Seconds() }

// rest waits until all is calm, so long after a session began, and measures from one
// heartbeat to another.
func (d *device) rest(ctx context.Context, session account, calm time.Duration) (r rest, err error) {
	if err := errors.Join(sleep(ctx, calm), d.hear(ctx, 1)); err != nil {
		return r, err
	}
	first, err := d.now()
	if err != nil {
		return r, err
	}
	if err := d.hear(ctx, beats); err != nil {
		return r, err
	}
	last, err := d.now()
	if err != nil {
		return r, err
	}
	if last.sessions != first.sessions {
		return r, fmt.Errorf("the agent did not keep its connection; its last lines:\n%s", d.agent.LogTail(5))
	}
	r.took, r.traffic = last.at.Sub(first.at), last.traffic-first.traffic
	r.calm, r.beginning = first.at.Sub(session.at), first.traffic-session.traffic
	r.agent.spent = spent{last.agent.cpu - first.agent.cpu, last.agent.written - first.agent.written}
	r.podman.spent = spent{last.podman.cpu - first.podman.cpu, last.podman.written - first.podman.written}
	if err := errors.Join(r.agent.weigh(ctx, d.agent.PID()), r.podman.weigh(ctx, d.podman.PID())); err != nil {
		return r, err
	}
	r.look, err = d.lookOnce(ctx)
	return r, err
}

// weigh measures the memory of a process, once a second.
func (u *usage) weigh(ctx context.Context, pid int) error {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return err
	}
	for range rounds {
		status, err := p.NewStatus()
		if err != nil {
			return err
		}
		maps, err := p.ProcSMapsRollup()
		if err != nil {
			return err
		}
		u.resident = append(u.resident, float64(status.VmRSS)/(1<<20))
		u.anonymous = append(u.anonymous, float64(status.RssAnon)/(1<<20))
		u.proportional = append(u.proportional, float64(maps.Pss)/(1<<20))
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// account is what has been taken at one moment.
type account struct {
	at            time.Time
	agent, podman spent
	traffic       float64 // bytes
	sessions      int
}

// now takes account.
func (d *device) now() (a account, err error) {
	traffic, sessions, err := d.gauge.bytes()
	if err != nil {
		return a, err
	}
	a.at, a.traffic, a.sessions = time.Now(), float64(traffic), sessions
	if err := d.agent.Failure(); err != nil {
		return a, err
	}
	for pid, to := range map[int]*spent{d.agent.PID(): &a.agent, d.podman.PID(): &a.podman} {
		p, err := procfs.NewProc(pid)
		if err != nil {
			return a, err
		}
		stat, err := p.Stat()
		if err != nil {
			return a, err
		}
		io, err := p.IO()
		if err != nil {
			return a, err
		}
		*to = spent{stat.CPUTime(), float64(io.WriteBytes)}
	}
	return a, nil
}

// hear returns after so many heartbeats.
func (d *device) hear(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(n+1)*wire.HeartbeatInterval, errors.New("no heartbeat came"))
	defer cancel()
	var last uint64
	for heard := -1; ; {
		entries, err := d.operator.List(ctx, wire.DeviceHeartbeats, wire.DeviceKey(agentDevice))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Sequence != last {
				last = e.Sequence
				heard++
			}
		}
		if heard >= n {
			return nil
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// lookOnce is the traffic of a look at a manifest in which nothing is new. What has the
// agent look here is an empty hint, and the clock else.
func (d *device) lookOnce(ctx context.Context) (float64, error) {
	as, to := d.broker.Provisioner(), d.broker.NATS()
	nc, err := nats.Connect(to.URLs[0], nats.RootCAs(to.CAFile), nats.UserInfo(as.User, as.Password))
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	first, err := d.now()
	if err != nil {
		return 0, err
	}
	for range looks {
		if err := errors.Join(nc.Publish(wire.DesiredHint(wire.DeviceKey(agentDevice)), nil), sleep(ctx, time.Second)); err != nil {
			return 0, err
		}
	}
	last, err := d.now()
	return (last.traffic - first.traffic) / looks, err
}
