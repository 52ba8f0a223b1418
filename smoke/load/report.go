package load

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// report is what a run measured.
type report struct {
	Options
	phases []phaseTime

	pairs            int
	devicesPerSecond float64

	heartbeats, heartbeatWrites int

	writeTime        time.Duration
	written, patches int
	lastAck          time.Duration // after the last write was due
	changes          counts
	ages             []time.Duration
	during           []usage
	final            []usage
	errors, repeated int
	firstError       error
	aggregates       findings
	devices, desired findings
}

type phaseTime struct {
	name string
	took time.Duration
}

// measured takes the difference of two measurements around the state writes.
func (r *report) measured(before, after measurement) {
	r.writeTime = after.at.Sub(before.at)
	r.written = after.acked - before.acked
	r.patches = after.writes.since(before.writes).statuses
	r.during = after.usage
	for i := range r.during {
		r.during[i].coresInWrites = (r.during[i].cpuSeconds - before.usage[i].cpuSeconds) / r.writeTime.Seconds()
	}
}

// maxChanges is how often one status may change within rateWindow: once a
// second, and one more because a window has two ends.
const maxChanges = int(rateWindow/time.Second) + 1

// problems are the reasons for which the run has failed.
func (r *report) problems() []error {
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(r.errors == 0, "%d errors, the first: %w", r.errors, r.firstError)
	check(r.heartbeatWrites == 0, "%d API writes during heartbeats alone", r.heartbeatWrites)
	check(r.changes.most <= maxChanges, "the status of one Deployment changed %d times in %s, at most %d allowed", r.changes.most, rateWindow, maxChanges)
	for _, f := range []struct {
		what string
		findings
	}{{"aggregates", r.aggregates}, {"devices", r.devices}, {"keys of the desired state", r.desired}} {
		check(f.wrong == 0, "%d wrong %s, among them: %s", f.wrong, f.what, f.words)
	}
	return problems
}

// write prints the report; it fails with ErrWrong when there are problems.
func (r *report) write(to io.Writer) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	perSecond := func(n int) float64 { return float64(n) / r.writeTime.Seconds() }
	fmt.Fprintln(table)
	row("devices", "%d (resources made at %.0f/s)", r.Devices, r.devicesPerSecond)
	row("deployments", "%d, on %d pairs of device and deployment", r.Deployments, r.pairs)
	row("state writes", "%.0f/s acknowledged (%d in %s; asked for %d/s; the last acknowledgement %s after the last write)",
		perSecond(r.written), r.written, r.writeTime.Round(time.Second), r.Rate, r.lastAck.Round(time.Millisecond))
	row("repeated writes", "%d, whose acknowledgement did not come within %s", r.repeated, ackTimeout)
	row("errors", "%d", r.errors)
	row("status age p50, p99", "%s, %s (%d probes, from a state's acknowledgement to a watch event with it; they wait %s at most)",
		quantile(r.ages, 0.5).Round(time.Millisecond), quantile(r.ages, 0.99).Round(time.Millisecond), len(r.ages), maxAge)
	row("status patches", "%.0f/s (budget %d/s), %.3f per deployment and second", perSecond(r.patches), r.Patches, perSecond(r.patches)/float64(r.Deployments))
	row("most changes of one status", "%d in %s (at most %d)", r.changes.most, rateWindow, maxChanges)
	row("API writes by heartbeats", "%d, in a phase of %d heartbeats and nothing else", r.heartbeatWrites, r.heartbeats)
	row("wrong aggregates", "%d of %d", r.aggregates.wrong, r.Deployments)
	row("wrong devices", "%d of %d", r.devices.wrong, r.Devices)
	row("wrong desired-state keys", "%d of %d scores and the manifests", r.desired.wrong, r.pairs)
	fmt.Fprintln(table)
	row("process", "resident MiB\tpeak MiB\tcores during the state writes")
	for i, u := range r.final {
		row(u.name, "%d\t%d\t%.2f", r.during[i].resident>>20, u.residentPeak>>20, r.during[i].coresInWrites)
	}
	fmt.Fprintln(table)
	for _, p := range r.phases {
		row(p.name, "%s", p.took.Round(100*time.Millisecond))
	}
	durability := "by its sync interval of 2 min"
	if r.SyncAlways {
		durability = "each message"
	}
	fmt.Fprintf(table, "\netcd syncs each write to the disk, the broker %s. Seed %d.\n", durability, r.Seed)
	if err := table.Flush(); err != nil {
		return err
	}
	if problems := r.problems(); len(problems) > 0 {
		return errors.Join(slices.Concat([]error{ErrWrong}, problems)...)
	}
	return nil
}
