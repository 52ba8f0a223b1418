package kubectl

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// identity is what a device is and may do.
type identity struct {
	Device string `json:"device"`
	// Policy is nil when it is not known.
	Policy *policyReport `json:"policy,omitempty"`
	// Resource is nil when the cluster has no Device.
	Resource *resourceReport `json:"resource,omitempty"`
	// What it may do at the broker once it is let in.
	Account   string        `json:"account"`
	Role      string        `json:"role"`
	Publish   []grantReport `json:"publish"`
	Subscribe []grantReport `json:"subscribe"`
	Limits    []limitReport `json:"limits"`
}

// policyReport is what is decided of a device.
type policyReport struct {
	// Enrolled says that there is a policy, whose fields follow.
	Enrolled      bool `json:"enrolled"`
	policy.Policy `json:",inline"`
	// JoinsUntil is set for a device that has a token of enrolment to use.
	JoinsUntil time.Time `json:"joinsUntil,omitzero"`
	// Revoked is nil when it is not.
	Revoked *policy.Revocation `json:"revoked,omitempty"`
}

// resourceReport is what the cluster has of a device.
type resourceReport struct {
	Reachable     metav1.ConditionStatus `json:"reachable"`
	since         time.Time
	Labels        map[string]string `json:"labels"`
	RefusedLabels []string          `json:"refusedLabels,omitempty"`
}

type grantReport struct {
	Subject string `json:"subject"`
	Why     string `json:"why"`
}

type limitReport struct {
	Name  string `json:"name"`
	Value int    `json:"value"`
	Why   string `json:"why"`
}

// newIdentity puts together what is known; found and records may be nil.
func newIdentity(id wire.DeviceID, found *v1alpha1.Device, records *policy.Records) *identity {
	role := wire.DeviceRole(id)
	r := &identity{
		Device: string(id), Account: role.Account, Role: role.Name,
		Publish: grantReports(role.Publish), Subscribe: grantReports(role.Subscribe),
	}
	for _, b := range role.Bounds() {
		r.Limits = append(r.Limits, limitReport{b.Name, b.Value, b.Why})
	}
	if records != nil {
		r.Policy = &policyReport{Enrolled: records.Policy != nil, Revoked: records.Revocation}
		if records.Policy != nil {
			r.Policy.Policy = *records.Policy
		}
		if records.Enrolment != nil {
			r.Policy.JoinsUntil = records.Enrolment.Expires
		}
	}
	if found != nil {
		r.Resource = &resourceReport{Reachable: metav1.ConditionUnknown, Labels: found.Labels, RefusedLabels: found.Status.LabelConflicts}
		for _, c := range found.Status.Conditions {
			if c.Type == v1alpha1.ConditionReachable {
				r.Resource.Reachable, r.Resource.since = c.Status, c.LastTransitionTime.Time
			}
		}
	}
	return r
}

func grantReports(grants []wire.Grant) []grantReport {
	reports := make([]grantReport, len(grants))
	for i, g := range grants {
		reports[i] = grantReport(g)
	}
	return reports
}

// printSummary writes everything but the permissions, and leads over to them.
func (r *identity) printSummary(w io.Writer, now time.Time) {
	fmt.Fprintf(w, "Device %s\n", r.Device)
	admitted := "It may"
	if p := r.Policy; p != nil {
		fmt.Fprintf(w, "Login: %s\n", p.login())
		if p.Enrolled {
			fmt.Fprintf(w, "Labels that it may claim: %s\n", allowedLabels(p.Labels))
			fmt.Fprintf(w, "Networks: %s\n", cmp.Or(strings.Join(p.Sources, ", "), "any"))
		}
		if !p.Enrolled || p.Revoked != nil {
			admitted = "It may do nothing; let in, it may"
		}
	}
	if d := r.Resource; d == nil {
		fmt.Fprintln(w, "In the cluster: no Device; it has not connected yet, or was deleted")
	} else {
		fmt.Fprintf(w, "In the cluster: reachable %s for %s, labels %s\n", d.Reachable, age(d.since, now), labels.FormatLabels(d.Labels))
		for _, refused := range d.RefusedLabels {
			fmt.Fprintf(w, "Refused label %s\n", refused)
		}
	}
	fmt.Fprintf(w, "%s, as %s in the account %s:\n\n", admitted, r.Role, r.Account)
}

// login says whether the callout lets the device in, and by what.
func (p *policyReport) login() string {
	switch {
	case p.Revoked != nil:
		return strings.TrimSuffix("refused, it is revoked: "+p.Revoked.String(), ": ")
	case !p.Enrolled:
		return "refused, it is not enrolled: there is no policy of it"
	case p.NKey != "":
		return "by its key " + p.NKey + ", or by a token of the provider"
	case !p.JoinsUntil.IsZero():
		return "by its token of enrolment until " + p.JoinsUntil.UTC().Format(time.RFC3339) + ", or by a token of the provider"
	}
	return "by a token of the provider"
}

// allowedLabels are sorted, each with the values that it may have.
func allowedLabels(allowed map[string][]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(allowed)) {
		all = append(all, key+"="+strings.Join(allowed[key], "|"))
	}
	return cmp.Or(strings.Join(all, ", "), "none")
}

// table has a row for each permission and each limit.
func (r *identity) table() *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: columns(3, "Do", "What", "Why")}
	row := func(cells ...any) { table.Rows = append(table.Rows, metav1.TableRow{Cells: cells}) }
	for _, g := range r.Publish {
		row("publish", g.Subject, g.Why)
	}
	for _, g := range r.Subscribe {
		row("subscribe", g.Subject, g.Why)
	}
	for _, l := range r.Limits {
		row("at most", fmt.Sprintf("%d %s", l.Value, l.Name), l.Why)
	}
	return table
}
