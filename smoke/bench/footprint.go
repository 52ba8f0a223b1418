package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/nationtech/harmony-fleet/release/packages"
	"github.com/nationtech/harmony-fleet/release/source"
)

const (
	// calm is how long nothing happens before a process is measured: longer than the
	// runtime takes to give memory back. calmAnew is for an agent that has to connect
	// before, and to tell its states again.
	calm, calmAnew = 20 * time.Second, 40 * time.Second
	// beats are the heartbeats that a rest lasts.
	beats = 2
	// looks are at a manifest in which nothing is new.
	looks = 5
	// updates are of one container each.
	updates      = 100
	updateWithin = time.Minute
	// aftermath is how long an agent may still tell of an update, and tidy up.
	aftermath = 5 * time.Second
	// A day has so many looks that nothing asks for, one in 10 minutes on average,
	// and so many sessions: the callout lets one last an hour.
	looksPerDay, sessionsPerDay = 144, 24
	secondsPerDay               = 24 * 60 * 60
)

// footprint measures what an agent costs its device: the size of its files, memory
// and CPU time while nothing happens, what it sends and receives, and how long a change
// takes to become a container that runs, besides what podman takes for that.
//
// A day's traffic is made up of what is measured here: that of a rest, which is
// heartbeats and pings, looks at the manifest, and beginnings of sessions. Bytes are
// those of TLS, TCP and IP, both ways.
func (b *bench) footprint(ctx context.Context) (err error) {
	tree, err := source.Read(ctx, ".")
	if err != nil {
		return err
	}
	d, err := b.newDevice(ctx, tree.Root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := b.sizes(ctx, tree, d); err != nil {
		return err
	}
	empty, err := d.rest(ctx, d.started, calm)
	if err != nil {
		return err
	}
	if err := d.runAll(ctx); err != nil {
		return err
	}
	before, err := d.now()
	if err != nil {
		return err
	}
	d.gauge.cut()
	full, err := d.rest(ctx, before, calmAnew)
	if err != nil {
		return err
	}
	// Heartbeats are the same with containers and without.
	rate := (empty.traffic + full.traffic) / (empty.took + full.took).Seconds()
	b.add(row{what: "agent: traffic of a minute's rest", unit: "kB", values: series{rate * 60 / 1e3}})
	b.idle(empty, "no containers", rate)
	b.idle(full, fmt.Sprintf("%d containers", containers), rate)
	return b.updates(ctx, d, rate)
}

// sizes are those of the program and of its packages for this architecture.
func (b *bench) sizes(ctx context.Context, tree source.Source, d *device) error {
	program, err := os.Stat(d.path("fleet-agent"))
	if err != nil {
		return err
	}
	b.add(row{what: "agent: program", unit: "MB", values: series{float64(program.Size()) / 1e6}})
	made, err := packages.Build{Source: tree, Architectures: []string{runtime.GOARCH}, Progress: b.out}.Agent(ctx, d.path("packages"))
	for _, p := range made {
		b.add(row{what: "agent: package, " + p.Format, unit: "MB", values: series{float64(p.Bytes) / 1e6}, atMost: 15})
	}
	return err
}

// idle are the rows of a rest.
func (b *bench) idle(r rest, with string, rate float64) {
	agent, podman := "agent, "+with+": ", "podman system service, "+with+": "
	b.add(row{what: agent + "resident (VmRSS)", unit: "MiB", values: r.agent.resident, atMost: 20})
	b.add(row{what: agent + "resident, of it anonymous", unit: "MiB", values: r.agent.anonymous})
	b.add(row{what: agent + "proportional set (PSS)", unit: "MiB", values: r.agent.proportional})
	b.add(row{what: podman + "resident (VmRSS)", unit: "MiB", values: r.podman.resident})
	b.add(row{what: "agent over podman system service, " + with + ": resident", values: ratio(r.agent.resident, r.podman.resident), atMost: 1})
	b.add(row{what: agent + "CPU", unit: "% of a core", values: series{r.percent(r.agent)}, atMost: 0.2})
	b.add(row{what: podman + "CPU, for the agent's looks", unit: "% of a core", values: series{r.percent(r.podman)}})
	b.add(row{what: agent + "traffic of a session's beginning", unit: "kB", values: series{r.session(rate) / 1e3}})
	b.add(row{what: agent + "traffic of a look at the manifest", unit: "kB", values: series{r.look / 1e3}})
	b.add(row{what: agent + "traffic of a day", unit: "MB", values: series{r.day(rate) / 1e6}, atMost: 2})
	daily := secondsPerDay / r.took.Seconds() / 1e6
	b.add(row{what: agent + "written to the disk in a day", unit: "MB", values: series{r.agent.written * daily}})
	b.add(row{what: podman + "written to the disk in a day", unit: "MB", values: series{r.podman.written * daily}})
}

// updates has the device run another version of one container after the other. The
// time of one begins before the desired state is written and ends when podman has
// started the container; what podman did in between is taken away.
func (b *bench) updates(ctx context.Context, d *device, rate float64) error {
	first, err := d.now()
	if err != nil {
		return err
	}
	var own, whole []time.Duration
	for i := range updates {
		ctx, cancel := context.WithTimeoutCause(ctx, updateWithin, fmt.Errorf("update %d took longer than %s", i, updateWithin))
		from := time.Now()
		if err := d.run(ctx, i%containers, 1+i); err != nil {
			cancel()
			return err
		}
		to, err := d.stopwatch.await(ctx)
		cancel()
		if err != nil {
			return d.explain(ctx, err)
		}
		whole = append(whole, to.Sub(from))
		own = append(own, to.Sub(from)-d.stopwatch.busy(from, to))
	}
	if err := sleep(ctx, aftermath); err != nil {
		return err
	}
	last, err := d.now()
	if err != nil {
		return err
	}
	each := (last.traffic - first.traffic - rate*last.at.Sub(first.at).Seconds()) / updates
	b.add(row{what: "agent: traffic of an update", unit: "kB", values: series{each / 1e3}})
	b.add(row{what: "agent: written to the disk by an update", unit: "kB", values: series{(last.agent.written - first.agent.written) / updates / 1e3}})
	b.add(row{what: "agent: CPU of an update", unit: "ms", values: series{(last.agent.cpu - first.agent.cpu) / updates * 1e3}})
	ms := func(all []time.Duration, p int) series { return series{float64(percentile(all, p)) / 1e6} }
	b.add(row{what: "change to running, podman's part included: median", unit: "ms", values: ms(whole, 50)})
	b.add(row{what: "change to running, without podman's part: median", unit: "ms", values: ms(own, 50)})
	b.add(row{what: "change to running, without podman's part: 99th percentile", unit: "ms", values: ms(own, 99), atMost: 250})
	return nil
}
