package install

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// monitoring is what Prometheus and Grafana see.
func (b builder) monitoring() (objects []any) {
	if b.v.Monitoring.Prometheus {
		objects = append(objects, b.serviceMonitor("operator"))
		if b.v.Callout.Enabled {
			objects = append(objects, b.serviceMonitor("callout"))
		}
		if b.ownBroker() && b.v.NATS.Exporter != "" {
			// Of the two Services with these labels one has the port.
			objects = append(objects, b.serviceMonitor("nats"))
		}
		objects = append(objects, b.alerts())
	}
	if b.v.Monitoring.Dashboard {
		board := b.configMap("dashboard", map[string]string{"harmony-fleet.json": dashboard()})
		board.Labels["grafana_dashboard"] = "1"
		objects = append(objects, board)
	}
	return objects
}

func (b builder) serviceMonitor(component string) *monitoring.ServiceMonitor {
	return &monitoring.ServiceMonitor{
		TypeMeta: metav1.TypeMeta{APIVersion: "monitoring.coreos.com/v1", Kind: "ServiceMonitor"}, ObjectMeta: b.meta(component),
		Spec: monitoring.ServiceMonitorSpec{
			Selector:  metav1.LabelSelector{MatchLabels: b.selector(component)},
			Endpoints: []monitoring.Endpoint{{Port: "metrics"}},
		},
	}
}

// alert is a rule, and what it tells who is woken by it.
type alert struct {
	name, expression, after, severity, summary string
}

// alertList is in the order of how much is broken. The expressions take the
// maximum, as a replica that waits measures nothing.
func alertList() []alert {
	return []alert{
		{"FleetOperatorDown", `absent(fleet_build_info)`, "5m", "critical", "No operator is up: Deployments do not reach devices, which go on with what they run."},
		{"FleetBrokerDisconnected", `max(fleet_nats_connected) == 0`, "5m", "critical", "The operator has no connection to the broker."},
		{"FleetBrokerUnfit", `max(fleet_nats_fit) == 0`, "10m", "critical", "The broker's version or streams are not what the operator needs; its log says which."},
		{"FleetNotConverged", `max(fleet_converged) == 0`, "15m", "warning", "The operator has not read everything yet, and so does not act."},
		{"FleetWritesPending", `min_over_time(fleet_pending_writes[15m]) > 0`, "15m", "warning", "Desired state of some devices could not be written for 15 minutes."},
		{"FleetWritesFail", `rate(fleet_desired_writes_total{result="error"}[10m]) > 0`, "15m", "warning", "Writes of desired state fail; the operator's log says why."},
		{"FleetStatusLate", `histogram_quantile(0.99, sum by (le) (rate(fleet_status_age_seconds_bucket[10m]))) > 30`, "15m", "warning", "The status of Deployments is more than 30 s behind what devices say."},
		{"FleetManifestFull", `max(fleet_assignments_over_limit) > 0`, "15m", "warning", "A device is to run more Deployments than its manifest holds."},
		{"FleetAuditDiffers", `increase(fleet_audit_differences_total[1h]) > 0`, "0m", "warning", "An audit found a difference: a bug, or somebody else writes into the broker."},
		{"FleetPoison", `increase(fleet_poison_total[1h]) > 0`, "0m", "warning", "A device or somebody else wrote what cannot be read; it was skipped."},
		{"FleetDeviceFloods", `increase(fleet_state_purges_total[1h]) > 0`, "0m", "warning", "A device filled a bucket and its states were purged; an event of the Device says which."},
		{"FleetLoginsUndecided", `sum(rate(fleet_callout_decisions_total{verdict="unavailable"}[10m])) > 0`, "10m", "critical", "The callout cannot decide who may connect: provider or store of policies is away."},
	}
}

func (b builder) alerts() *monitoring.PrometheusRule {
	group := monitoring.RuleGroup{Name: Product}
	for _, a := range alertList() {
		rule := monitoring.Rule{
			Alert: a.name, Expr: intstr.FromString(a.expression), For: new(monitoring.Duration(a.after)),
			Labels: map[string]string{"severity": a.severity}, Annotations: map[string]string{"summary": a.summary},
		}
		group.Rules = append(group.Rules, rule)
	}
	return &monitoring.PrometheusRule{
		TypeMeta: metav1.TypeMeta{APIVersion: "monitoring.coreos.com/v1", Kind: "PrometheusRule"}, ObjectMeta: b.meta("alerts"),
		Spec: monitoring.PrometheusRuleSpec{Groups: []monitoring.RuleGroup{group}},
	}
}

// panel is a graph of the dashboard.
type panel struct {
	title, unit string
	queries     map[string]string // by legend
}

func panels() []panel {
	return []panel{
		{"Devices", "short", map[string]string{"{{state}}": "max by (state) (fleet_devices)"}},
		{"Deployments and assignments", "short", map[string]string{"deployments": "max(fleet_deployments)", "assignments": "max(fleet_assignments)"}},
		{"Devices whose desired state is still to be written", "short", map[string]string{"pending": "max(fleet_pending_writes)"}},
		{"Writes and patches", "ops", map[string]string{
			"writes, {{result}}":  "sum by (result) (rate(fleet_desired_writes_total[5m]))",
			"patches, {{result}}": "sum by (result) (rate(fleet_status_patches_total[5m]))",
		}},
		{"Age of the status", "s", map[string]string{
			"median": "histogram_quantile(0.5, sum by (le) (rate(fleet_status_age_seconds_bucket[5m])))",
			"99 %":   "histogram_quantile(0.99, sum by (le) (rate(fleet_status_age_seconds_bucket[5m])))",
		}},
		{"Broker", "bool", map[string]string{"connected": "max(fleet_nats_connected)", "fit": "max(fleet_nats_fit)", "converged": "max(fleet_converged)"}},
		{"Logins decided", "ops", map[string]string{"{{verdict}}": "sum by (verdict) (rate(fleet_callout_decisions_total[5m]))"}},
		{"Time of a decision, 99 %", "s", map[string]string{"99 %": "histogram_quantile(0.99, sum by (le) (rate(fleet_callout_decision_seconds_bucket[5m])))"}},
	}
}

// dashboard is Grafana's JSON of the panels, two in a row.
func dashboard() string {
	var list []any
	for i, p := range panels() {
		var targets []any
		for _, legend := range slices.Sorted(maps.Keys(p.queries)) {
			targets = append(targets, map[string]any{"expr": p.queries[legend], "legendFormat": legend, "refId": string(rune('A' + len(targets)))})
		}
		list = append(list, map[string]any{
			"id": i + 1, "type": "timeseries", "title": p.title, "targets": targets,
			"datasource":  map[string]string{"type": "prometheus", "uid": "${datasource}"},
			"fieldConfig": map[string]any{"defaults": map[string]string{"unit": p.unit}, "overrides": []any{}},
			"gridPos":     map[string]int{"x": i % 2 * 12, "y": i / 2 * 8, "w": 12, "h": 8},
		})
	}
	data, err := json.MarshalIndent(map[string]any{
		"uid": Product, "title": "Harmony Fleet", "schemaVersion": 39, "refresh": "30s",
		"time":       map[string]string{"from": "now-6h", "to": "now"},
		"templating": map[string]any{"list": []any{map[string]string{"name": "datasource", "type": "datasource", "query": "prometheus"}}},
		"panels":     list,
	}, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("encoding the dashboard: %v", err)) // texts and numbers alone
	}
	return string(data) + "\n"
}
