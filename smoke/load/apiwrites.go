package load

import (
	"bytes"
	"context"
	"fmt"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/discovery"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// apiWrites counts, by the API server's own metric, the writes that a fleet can
// cause since the server's start: to Deployments, Devices and events. Left out
// is the operator's Lease, which it renews whatever happens.
type apiWrites struct {
	// statuses are patches of a Deployment's status, other the rest.
	statuses, other int
}

func (w apiWrites) all() int { return w.statuses + w.other }

func (w apiWrites) since(before apiWrites) apiWrites {
	return apiWrites{w.statuses - before.statuses, w.other - before.other}
}

func (s *stack) apiWrites(ctx context.Context) (apiWrites, error) {
	c, err := discovery.NewDiscoveryClientForConfig(s.plane.Config())
	if err != nil {
		return apiWrites{}, fmt.Errorf("making a client: %w", err)
	}
	text, err := c.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return apiWrites{}, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return apiWrites{}, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	var w apiWrites
	for _, m := range families["apiserver_request_total"].GetMetric() {
		labels := labelsOf(m)
		ours := labels["group"] == v1alpha1.Group || labels["resource"] == "events"
		switch labels["verb"] {
		case "POST", "PUT", "PATCH", "APPLY", "DELETE":
		default:
			continue
		}
		n := int(m.GetCounter().GetValue())
		switch {
		case ours && labels["resource"] == "deployments" && labels["subresource"] == "status":
			w.statuses += n
		case ours:
			w.other += n
		}
	}
	return w, nil
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	return labels
}

// quiet waits until the API server has had no write for a while, or the bound.
func (s *stack) quiet(ctx context.Context, bound time.Duration) error {
	const still = 10 * time.Second // an API server under load may stall for some seconds
	end := time.Now().Add(bound)
	last, err := s.apiWrites(ctx)
	for err == nil {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(still):
		}
		var now apiWrites
		if now, err = s.apiWrites(ctx); err == nil && now == last {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the API server was still written to after %s: %d writes in the last %s", bound, now.since(last).all(), still)
		}
		last = now
	}
	return err
}
