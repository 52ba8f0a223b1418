package kubectl

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// phaseRemoving is the phase of a device that no longer matches and still says
// that it runs something.
const phaseRemoving wire.Phase = "Removing"

// Reasons that this command finds itself, beside those that devices report.
const (
	reasonNotReported = "NotReported"
	reasonOlder       = "ReportedOlderVersion"
	reasonNotMatched  = "NoLongerMatches"
)

// report is what `status` prints as JSON and YAML.
type report struct {
	Namespace  string                    `json:"namespace"`
	Name       string                    `json:"name"`
	Generation int64                     `json:"generation"`
	Status     v1alpha1.DeploymentStatus `json:"status"`
	// Devices is empty when the broker was not asked.
	Devices []deviceReport `json:"devices,omitempty"`
}

// deviceReport is how the Deployment does on one device.
type deviceReport struct {
	Device     string                 `json:"device"`
	Phase      wire.Phase             `json:"phase"`
	Reason     string                 `json:"reason"`
	Message    string                 `json:"message,omitempty"`
	Reachable  metav1.ConditionStatus `json:"reachable"`
	Reported   *metav1.Time           `json:"reported,omitempty"`
	Containers []wire.ContainerRef    `json:"containers,omitempty"`
}

// deviceReports has an entry for each device that matches, counted as the
// operator counts it, and one for each other device that still reports, sorted
// by device.
func deviceReports(d *v1alpha1.Deployment, matched []v1alpha1.Device, states map[wire.DeviceID]stateAt) ([]deviceReport, error) {
	canonical, err := score.Encode(d.Spec.Score)
	if err != nil {
		return nil, fmt.Errorf("reading the score of deployment %q: %w", d.Name, err)
	}
	wanted := score.DigestOf(canonical)
	reports := make([]deviceReport, 0, len(matched))
	reachable := map[wire.DeviceID]metav1.ConditionStatus{}
	for _, device := range matched {
		id := wire.DeviceID(device.Name)
		reachable[id] = metav1.ConditionUnknown
		if c := meta.FindStatusCondition(device.Status.Conditions, v1alpha1.ConditionReachable); c != nil {
			reachable[id] = c.Status
		}
		if _, reported := states[id]; !reported && d.DeletionTimestamp.IsZero() {
			reports = append(reports, deviceReport{Device: device.Name, Phase: wire.PhasePending, Reason: reasonNotReported, Reachable: reachable[id]})
		}
	}
	for id, state := range states {
		r := deviceReport{
			Device: string(id), Phase: state.Phase, Reason: state.Reason, Message: state.Message,
			Reachable: metav1.ConditionUnknown, Reported: &metav1.Time{Time: state.at}, Containers: state.Containers,
		}
		status, isMatched := reachable[id]
		switch {
		case !isMatched:
			r.Phase, r.Reason = phaseRemoving, reasonNotMatched
		case !d.DeletionTimestamp.IsZero():
			r.Phase, r.Reason, r.Reachable = phaseRemoving, v1alpha1.ReasonDeleting, status
		case state.Digest != wanted:
			r.Message = strings.TrimSpace(fmt.Sprintf("of an older version: %s (%s) %s", state.Phase, state.Reason, state.Message))
			r.Phase, r.Reason, r.Reachable = wire.PhasePending, reasonOlder, status
		default:
			r.Reachable = status
		}
		reports = append(reports, r)
	}
	slices.SortFunc(reports, func(a, b deviceReport) int { return strings.Compare(a.Device, b.Device) })
	return reports, nil
}

// table has a row for each device of the report.
func (r *report) table(now time.Time) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: columns(7, "Device", "Phase", "Reason", "Reachable", "Age", "Container", "Message", "Containers")}
	for _, d := range r.Devices {
		var short, full []string
		for _, c := range d.Containers {
			short = append(short, c.ID[:min(12, len(c.ID))])
			full = append(full, c.Service+"="+c.ID)
		}
		reported := none
		if d.Reported != nil {
			reported = age(d.Reported.Time, now)
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{
			d.Device, string(d.Phase), d.Reason, string(d.Reachable), reported,
			cmp.Or(strings.Join(short, ","), none), d.Message, cmp.Or(strings.Join(full, ","), none),
		}})
	}
	return table
}

// printSummary writes what the cluster says of the Deployment as a whole.
func (r *report) printSummary(w io.Writer, now time.Time) {
	fmt.Fprintf(w, "Deployment %s/%s, generation %d", r.Namespace, r.Name, r.Generation)
	if r.Status.ObservedGeneration != r.Generation {
		fmt.Fprintf(w, "; what follows is of generation %d, the operator has yet to follow", r.Status.ObservedGeneration)
	}
	fmt.Fprintln(w)
	if ready := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		fmt.Fprintf(w, "Ready: %s (%s) %s\n", ready.Status, ready.Reason, ready.Message)
	}
	a := r.Status.Aggregate
	fmt.Fprintf(w, "Devices: %d matched = %d succeeded + %d failed + %d pending; %d of them unreachable\n",
		a.MatchedDeviceCount, a.Succeeded, a.Failed, a.Pending, a.Unreachable)
	if e := a.LastError; e != nil {
		fmt.Fprintf(w, "Last error: %s, %s ago: %s: %s\n", e.Device, age(e.Time.Time, now), e.Reason, e.Message)
	}
}
