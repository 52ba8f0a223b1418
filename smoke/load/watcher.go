package load

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	toolswatch "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// watcher sees each change of a status as any client of the API server does.
type watcher struct {
	ended chan struct{}

	mu        sync.Mutex
	statuses  map[string]v1alpha1.DeploymentStatus // the last one by name
	changes   map[string][]time.Time               // of the status, by name, since forget
	expecting map[string]expectation
	err       error
}

// expectation is what somebody waits for, and where the time of it is sent.
type expectation struct {
	met  func(v1alpha1.Aggregate) bool
	seen chan time.Time
}

// source lets a RetryWatcher begin again where it was interrupted.
type source struct{ client client.WithWatch }

// WatchWithContext implements cache.WatcherWithContext.
func (s source) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return s.client.Watch(ctx, &v1alpha1.DeploymentList{}, client.InNamespace(namespace), &client.ListOptions{Raw: &options})
}

// watchStatuses watches until ctx ends.
func watchStatuses(ctx context.Context, c client.WithWatch) (*watcher, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("DeploymentList"))
	if err := c.List(ctx, list, client.InNamespace(namespace), client.Limit(1)); err != nil {
		return nil, fmt.Errorf("listing Deployments: %w", err)
	}
	events, err := toolswatch.NewRetryWatcherWithContext(ctx, list.ResourceVersion, source{c})
	if err != nil {
		return nil, fmt.Errorf("watching Deployments: %w", err)
	}
	w := &watcher{
		ended: make(chan struct{}), statuses: map[string]v1alpha1.DeploymentStatus{},
		changes: map[string][]time.Time{}, expecting: map[string]expectation{},
	}
	go func() {
		defer close(w.ended)
		for event := range events.ResultChan() {
			w.observe(event, time.Now())
		}
	}()
	return w, nil
}

func (w *watcher) observe(event watch.Event, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, isDeployment := event.Object.(*v1alpha1.Deployment)
	if !isDeployment {
		w.err = fmt.Errorf("watching Deployments: unexpected event %s: %v", event.Type, event.Object)
		return
	}
	if equality.Semantic.DeepEqual(w.statuses[d.Name], d.Status) {
		return
	}
	w.statuses[d.Name] = d.Status
	w.changes[d.Name] = append(w.changes[d.Name], now)
	if e, expected := w.expecting[d.Name]; expected && e.met(d.Status.Aggregate) {
		e.seen <- now
		delete(w.expecting, d.Name)
	}
}

// expect returns a channel that gets the time at which the next status of the
// Deployment arrives that meets the condition.
func (w *watcher) expect(name string, met func(v1alpha1.Aggregate) bool) <-chan time.Time {
	seen := make(chan time.Time, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expecting[name] = expectation{met, seen}
	return seen
}

// forget starts counting changes anew.
func (w *watcher) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.changes)
}

// rateWindow is long enough for a delay of the watch to count little.
const rateWindow = 10 * time.Second

// counts are how often statuses changed since forget.
type counts struct {
	total int
	// most is the largest number within any rateWindow for one Deployment.
	most int
}

func (w *watcher) count() (counts, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var c counts
	for _, times := range w.changes {
		c.total += len(times)
		c.most = max(c.most, mostWithin(times, rateWindow))
	}
	return c, w.err
}

// mostWithin is the largest number of times, which are in order, within any
// window of that length.
func mostWithin(times []time.Time, window time.Duration) int {
	most, first := 0, 0
	for i, t := range times {
		for t.Sub(times[first]) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// quantile of durations, 0 for none.
func quantile(durations []time.Duration, q float64) time.Duration {
	if len(durations) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[int(q*float64(len(sorted)-1))]
}
