// Package status is what the agent says of itself on its own device: who uses
// the state directory, and a page and logs for a person who knows Linux and has never
// heard of Kubernetes. It reads what the agent and podman left behind, so it
// also works while the agent is down. It never changes a workload and never
// talks to the broker.
package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// podmanTimeout bounds the question to podman: the page is more useful without
// containers than late.
const podmanTimeout = 5 * time.Second

// View is everything that the page shows.
type View struct {
	Device wire.DeviceID
	// Running says whether an agent uses the state directory now; if not, Report
	// is what the last one said.
	Running bool
	Report  store.Report
	// Containers of this device as podman lists them now, unless PodmanError says
	// why it does not.
	Containers  []reconcile.Container
	PodmanError error
}

// Read gathers a View. A podman that does not answer is part of it and no error.
func Read(ctx context.Context, cfg v1alpha1.AgentConfig) (View, error) {
	v := View{Device: wire.DeviceID(cfg.Agent.DeviceID)}
	var claimed, loaded error
	v.Running, claimed = Claimed(cfg.Agent.StateDir)
	files, err := store.Open(cfg.Agent.StateDir)
	if err == nil {
		v.Report, loaded = files.LoadReport()
	}
	if err := errors.Join(claimed, err, loaded); errors.Is(err, fs.ErrPermission) {
		return v, fmt.Errorf("only root and the agent's own user may look: %w", err)
	} else if err != nil {
		return v, err
	}
	ctx, cancel := context.WithTimeout(ctx, podmanTimeout)
	defer cancel()
	v.Containers, v.PodmanError = podman.New(cfg.Podman.Socket).List(ctx, v.Device)
	return v, nil
}

// Print writes the page as of now.
func (v View) Print(w io.Writer, now time.Time) error {
	p := printer{out: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), now: now}
	p.line("device\t%s", v.Device)
	switch r := v.Report; {
	case r.Written.IsZero():
		p.line("agent\t%s", either(v.Running, "running, just started", "not running, and has never run here"))
	default:
		p.line("agent\t%s", either(v.Running, "running", "NOT RUNNING; below is what it said last, "+p.when(r.Written)))
		p.line("broker\t%s", p.broker(r.Broker))
		p.line("wanted\t%s", wanted(r))
		if r.Hold != nil {
			p.line("HELD\tuntil %s (%s) by the %s: what runs is kept running, and nothing else is done", r.Hold.Until.Local().Format(time.DateTime), p.until(r.Hold.Until), r.Hold.By)
		}
		if r.Secrets != "" {
			p.line("secrets\tnot looked at: %s", wire.CleanText(r.Secrets, wire.MaxMessage))
		}
		if r.Refused != "" {
			p.line("REFUSED\twhat the broker offers: %s", wire.CleanText(r.Refused, wire.MaxMessage))
		}
		if r.Twin != "" {
			p.line("CONFLICT\t%s", wire.CleanText(r.Twin, wire.MaxMessage))
		}
	}
	if v.PodmanError != nil {
		p.line("podman\tcontainers are not known: %s", wire.CleanText(v.PodmanError.Error(), wire.MaxMessage))
	}
	left := map[wire.DeploymentID][]reconcile.Container{}
	for _, c := range v.Containers {
		left[c.Deployment] = append(left[c.Deployment], c)
	}
	for _, d := range v.Report.Deployments {
		id := wire.DeploymentID{Namespace: d.Namespace, Name: d.Name}
		p.deployment(d)
		p.containers(left[id], v.PodmanError == nil)
		delete(left, id)
	}
	for _, id := range slices.SortedFunc(maps.Keys(left), func(a, b wire.DeploymentID) int { return cmp.Compare(a.String(), b.String()) }) {
		p.line("\n%s\tnot wanted here any more", id)
		p.containers(left[id], true)
	}
	return errors.Join(p.err, p.out.Flush())
}

// printer keeps the first error of many lines.
type printer struct {
	out *tabwriter.Writer
	now time.Time
	err error
}

func (p *printer) line(format string, values ...any) {
	if _, err := fmt.Fprintf(p.out, format+"\n", values...); p.err == nil {
		p.err = err
	}
}

func (p *printer) broker(b store.BrokerReport) string {
	if b.Connected {
		return "connected since " + p.when(b.Since)
	}
	return fmt.Sprintf("not connected since %s: %s", p.when(b.Since), cmp.Or(wire.CleanText(b.Error, wire.MaxMessage), "first attempt is under way"))
}

func wanted(r store.Report) string {
	if r.Generation == 0 {
		return "nothing received from the broker yet"
	}
	return fmt.Sprintf("generation %d, deployments: %d", r.Generation, len(r.Deployments))
}

func (p *printer) deployment(d store.DeploymentReport) {
	next := ""
	if !d.NextTry.IsZero() {
		next = ", next try " + p.until(d.NextTry)
	}
	p.line("\n%s/%s\t%s (%s) since %s%s", d.Namespace, d.Name, d.State.Phase, d.State.Reason, p.when(d.Since), next)
	if d.State.Message != "" {
		p.line("\t%s", wire.CleanText(d.State.Message, wire.MaxMessage))
	}
}

func (p *printer) containers(containers []reconcile.Container, known bool) {
	if len(containers) == 0 && known {
		p.line("\tno container")
	}
	slices.SortFunc(containers, func(a, b reconcile.Container) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Created.Compare(b.Created))
	})
	for _, c := range containers {
		p.line("  %s\t%s  %s", c.Service, c.ID[:min(12, len(c.ID))], p.state(c))
	}
}

func (p *printer) state(c reconcile.Container) string {
	switch c.State {
	case reconcile.Running:
		return "running since " + p.when(c.Started)
	case reconcile.Exited, reconcile.Releasing:
		return fmt.Sprintf("exited with code %d at %s", c.ExitCode, p.when(c.Exited))
	default:
		return fmt.Sprintf("%s since %s", strings.ToLower(string(c.State)), p.when(c.Created))
	}
}

// when is a time in the device's time zone, and how long ago that was.
func (p *printer) when(t time.Time) string {
	return fmt.Sprintf("%s (%s ago)", t.Local().Format(time.DateTime), rounded(p.now.Sub(t)))
}

// until is how long it takes until a time.
func (p *printer) until(t time.Time) string {
	if left := rounded(t.Sub(p.now)); left > 0 {
		return "in " + left.String()
	}
	return "now"
}

// rounded is a duration in whole seconds, and never below none: clocks jump.
func rounded(d time.Duration) time.Duration { return max(0, d.Round(time.Second)) }

func either(condition bool, yes, no string) string {
	if condition {
		return yes
	}
	return no
}
