package engine

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Values of the label result.
const (
	resultOK      = "ok"
	resultRefused = "refused"
	resultError   = "error"
)

// metrics are the engine's counters, and what the core says at each scrape.
// None has a label with a device or a Deployment in it.
type metrics struct {
	e *Engine

	writes      *prometheus.CounterVec
	patches     *prometheus.CounterVec
	poison      *prometheus.CounterVec
	age         prometheus.Histogram
	differences prometheus.Counter
	purges      prometheus.Counter
}

// Gauges that are read from the engine.
var (
	devicesDesc     = prometheus.NewDesc("fleet_devices", "Devices by whether heartbeats arrive.", []string{"state"}, nil)
	deploymentsDesc = prometheus.NewDesc("fleet_deployments", "Deployments.", nil, nil)
	assignmentsDesc = prometheus.NewDesc("fleet_assignments", "Pairs of a device and a Deployment that matches it.", nil, nil)
	pendingDesc     = prometheus.NewDesc("fleet_pending_writes", "Devices whose desired state is still to be written.", nil, nil)
	overLimitDesc   = prometheus.NewDesc("fleet_assignments_over_limit", "Assignments beyond what one device's manifest holds.", nil, nil)
	droppedDesc     = prometheus.NewDesc("fleet_dropped_states_total", "Reported states of unassigned Deployments beyond what is kept per device.", nil, nil)
	connectedDesc   = prometheus.NewDesc("fleet_nats_connected", "1 while there is a connection to the broker.", nil, nil)
	fitDesc         = prometheus.NewDesc("fleet_nats_fit", "1 while the broker passed the last check of its version and streams.", nil, nil)
	convergedDesc   = prometheus.NewDesc("fleet_converged", "1 while everything has been read whole, so that the operator acts.", nil, nil)
)

func newMetrics(e *Engine) *metrics {
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	return &metrics{
		e:       e,
		writes:  counters("fleet_desired_writes_total", "Writes of one device's desired state to the broker.", "result"),
		patches: counters("fleet_status_patches_total", "Patches of the status of Deployments and Devices.", "result"),
		poison:  counters("fleet_poison_total", "Keys and payloads that could not be read and were skipped.", "bucket"),
		age: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fleet_status_age_seconds", Help: "Age of the oldest change that a status patch reports, when it is written.",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300},
		}),
		differences: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fleet_audit_differences_total", Help: "Differences that audits found; each is a bug, or somebody else wrote.",
		}),
		purges: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fleet_state_purges_total", Help: "Purges of all states of one device, which filled the bucket.",
		}),
	}
}

// Collector is everything that the engine measures.
func (e *Engine) Collector() prometheus.Collector { return e.metrics }

func (m *metrics) parts() []prometheus.Collector {
	return []prometheus.Collector{m.writes, m.patches, m.poison, m.age, m.differences, m.purges}
}

func (m *metrics) wrote(ok bool) {
	result := resultError
	if ok {
		result = resultOK
	}
	m.writes.WithLabelValues(result).Inc()
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{devicesDesc, deploymentsDesc, assignmentsDesc, pendingDesc, overLimitDesc, droppedDesc, connectedDesc, fitDesc, convergedDesc} {
		to <- d
	}
	for _, part := range m.parts() {
		part.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	m.e.mu.Lock()
	stats, converged, fit := m.e.core.Stats(), m.e.core.Converged(), m.e.problem == nil
	m.e.mu.Unlock()
	connected := m.e.connected.Load()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(devicesDesc, float64(stats.Reachable), "reachable")
	gauge(devicesDesc, float64(stats.Devices-stats.Reachable), "unreachable")
	gauge(deploymentsDesc, float64(stats.Deployments))
	gauge(assignmentsDesc, float64(stats.Assignments))
	gauge(pendingDesc, float64(stats.PendingWrites))
	gauge(overLimitDesc, float64(stats.OverLimit))
	to <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(stats.DroppedStates))
	gauge(connectedDesc, number(connected))
	gauge(fitDesc, number(connected && fit))
	gauge(convergedDesc, number(converged))
	for _, part := range m.parts() {
		part.Collect(to)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
