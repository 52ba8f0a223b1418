package callout

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Verdicts, as the log and the metrics name them.
const (
	verdictGranted     = "granted"
	verdictDenied      = "denied"
	verdictUnavailable = "unavailable"
	// verdictBad is a request that was not understood, or found no room.
	verdictBad = "unhandled"
)

func verdictOf(err error) string {
	switch {
	case err == nil:
		return verdictGranted
	case errors.Is(err, ErrDenied):
		return verdictDenied
	}
	return verdictUnavailable
}

// metrics has no label of who asked: there may be a hundred thousand.
type metrics struct {
	decisions *prometheus.CounterVec
	seconds   prometheus.Histogram
}

func newMetrics() metrics {
	m := metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fleet_callout_decisions_total", Help: "Requests of the broker, by what they came to.",
		}, []string{"verdict"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fleet_callout_decision_seconds", Help: "Time that one decision took.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
	}
	for _, verdict := range []string{verdictGranted, verdictDenied, verdictUnavailable, verdictBad} {
		m.decisions.WithLabelValues(verdict)
	}
	return m
}

func (m metrics) decided(verdict string, took time.Duration) {
	m.decisions.WithLabelValues(verdict).Inc()
	if verdict != verdictBad {
		m.seconds.Observe(took.Seconds())
	}
}

// Describe implements prometheus.Collector.
func (m metrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	m.decisions.Collect(ch)
	m.seconds.Collect(ch)
}
