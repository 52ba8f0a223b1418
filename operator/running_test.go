package operator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/operator"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// running is an operator at work.
type running struct {
	w        *world
	config   config.OperatorConfig
	kube     *rest.Config
	registry *prometheus.Registry
	logs     *logs
	traffic  *traffic
	skew     atomic.Int64 // added to the operator's clock, in nanoseconds
	// apiRestarts says that the API server is restarted: for a moment after that
	// it knows no roles and refuses everything.
	apiRestarts bool
	cancel      context.CancelFunc
	done        chan struct{}
	err         error // valid after done
}

// start runs an operator until the test ends, or stop is called.
func (w *world) start(change ...func(*running)) *running {
	w.Helper()
	probe, err := process.FreePort()
	w.must(err)
	r := &running{w: w, config: config.OperatorDefaults(), kube: w.plane.Config(), registry: prometheus.NewRegistry(),
		logs: &logs{}, traffic: &traffic{}, done: make(chan struct{})}
	r.config.NATS, r.config.Credentials, r.config.Signing = w.broker.NATS(), w.broker.Operator(), w.broker.Signing()
	r.config.LeaderElection.Enabled = false
	r.config.MetricsAddress, r.config.ProbeAddress = "0", fmt.Sprintf("127.0.0.1:%d", probe)
	r.kube.Impersonate.UserName = operatorUser
	r.kube.Wrap(r.traffic.wrap)
	for _, c := range change {
		c(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.done)
		log := logr.FromSlogHandler(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
		r.err = operator.Run(ctx, r.kube, r.config, operator.Options{
			Log: log, Version: "test", Metrics: r.registry,
			Now: func() time.Time { return time.Now().Add(time.Duration(r.skew.Load())) },
		})
	}()
	w.Cleanup(func() {
		r.stop()
		if text := r.logs.String() + clientLogs.take(); strings.Contains(text, operatorUser+`\" cannot`) && !r.apiRestarts {
			w.Error("the operator lacks a permission")
		}
		if w.Failed() {
			w.Logf("the operator's log:\n%s", r.logs)
		}
	})
	return r
}

// startConverged is start, returning when the operator acts.
func (w *world) startConverged(change ...func(*running)) *running {
	w.Helper()
	r := w.start(change...)
	r.waitLog("msg=converged")
	return r
}

func (r *running) stop() {
	r.cancel()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.w.Fatal("the operator does not stop")
	}
}

func (r *running) waitLog(text string) {
	r.w.Helper()
	r.w.eventually("the log has "+text, func() error {
		if !strings.Contains(r.logs.String(), text) {
			return errors.New("it has not")
		}
		return nil
	})
}

// metric is the value of a counter or gauge, added over its labels that contain
// the text.
func (r *running) metric(name, label string) (sum float64) {
	families, err := r.registry.Gather()
	r.w.must(err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (label == "" || strings.Contains(fmt.Sprint(m.GetLabel()), label)) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// readiness is the answer of /readyz: nil, or its body as an error.
func (r *running) readiness() error {
	answer, err := http.Get("http://" + r.config.ProbeAddress + "/readyz")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var body bytes.Buffer
	_, _ = body.ReadFrom(answer.Body)
	if answer.StatusCode != http.StatusOK {
		return errors.New(body.String())
	}
	return nil
}

// logs collects what is logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// take returns what was logged since the last call.
func (l *logs) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.buf.Reset()
	return l.buf.String()
}

// count is how many lines have the text.
func (l *logs) count(text string) int { return strings.Count(l.String(), text) }

// request is one request that the operator sent to the API server.
type request struct {
	method, path string
	at           time.Time
}

// traffic records the operator's requests, and may answer in the API server's
// stead.
type traffic struct {
	mu       sync.Mutex
	requests []request
	// intercept may answer; (nil, nil) passes the request on.
	intercept func(*http.Request, http.RoundTripper) (*http.Response, error)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (t *traffic) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		t.mu.Lock()
		t.requests = append(t.requests, request{r.Method, r.URL.Path, time.Now()})
		intercept := t.intercept
		t.mu.Unlock()
		if intercept != nil {
			if answer, err := intercept(r, next); answer != nil || err != nil {
				return answer, err
			}
		}
		return next.RoundTrip(r)
	})
}

// find returns the requests of a method, "write" meaning any that writes, whose
// path contains the text.
func (t *traffic) find(method, path string) (found []request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.requests {
		matches := r.method == method || method == "write" && r.method != http.MethodGet
		if matches && strings.Contains(r.path, path) {
			found = append(found, r)
		}
	}
	return found
}
