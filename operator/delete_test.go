package operator_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// newWorldProcess is a world whose broker can be killed.
func newWorldProcess(t *testing.T) (*world, *broker.Process) {
	t.Helper()
	p, err := broker.StartProcess(t.Context(), broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return newWorldWith(t, p), p
}

// TestDeleteWhileBrokerIsDown: the deletion waits, says so, and completes.
func TestDeleteWhileBrokerIsDown(t *testing.T) {
	w, p := newWorldProcess(t)
	w.startConverged(func(r *running) { r.config.DeleteTimeout = config.Duration(500 * time.Millisecond) })
	w.announce("pi-1", map[string]string{"group": "a"})
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	w.awaitDesired("pi-1", d)

	p.Kill()
	w.must(w.api.Delete(t.Context(), d))
	w.awaitEvent(d, v1alpha1.ReasonDeleting, "the broker cannot be reached")
	w.awaitEvent(d, v1alpha1.ReasonDeleting, v1alpha1.AnnotationForceDelete+"=true")
	w.must(w.api.Get(t.Context(), client.ObjectKeyFromObject(d), d)) // it is still there
	w.must(p.Restart(t.Context()))
	w.awaitGone(d)
	w.awaitDesired("pi-1")
}

// TestForceDelete: a person may let a Deployment go while the broker is away; its
// keys are removed when that is back, also by another operator.
func TestForceDelete(t *testing.T) {
	for name, restart := range map[string]bool{"the same operator": false, "a new operator": true} {
		t.Run(name, func(t *testing.T) {
			w, p := newWorldProcess(t)
			r := w.startConverged()
			w.announce("pi-1", map[string]string{"group": "a"})
			namespace := w.namespace()
			d, other := deployment(namespace, "web", "a"), deployment(namespace, "other", "a")
			w.must(w.api.Create(t.Context(), d))
			w.must(w.api.Create(t.Context(), other))
			w.awaitDesired("pi-1", d, other)
			p.Kill()
			w.must(w.api.Delete(t.Context(), d))
			w.must(w.api.Patch(t.Context(), d, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"`+v1alpha1.AnnotationForceDelete+`":"true"}}}`))))
			w.awaitGone(d)
			if restart {
				r.stop()
				w.start()
			}
			w.must(p.Restart(t.Context()))
			w.awaitDesired("pi-1", other)
			w.eventually("the key is removed", func() error {
				if w.get(wire.DesiredState, wire.DeploymentKey("pi-1", idOf(d))) != nil {
					return errors.New("it is there")
				}
				return nil
			})
		})
	}
}

// TestNamespaceDeletion: a namespace with live Deployments in it goes.
func TestNamespaceDeletion(t *testing.T) {
	w := newWorld(t)
	w.startConverged()
	w.announce("pi-1", map[string]string{"group": "a"})
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace()}}
	var all []*v1alpha1.Deployment
	for i := range 20 {
		d := deployment(ns.Name, fmt.Sprintf("web-%d", i), "a")
		w.must(w.api.Create(t.Context(), d))
		all = append(all, d)
	}
	w.awaitDesired("pi-1", all...)
	w.must(w.api.Delete(t.Context(), ns))
	w.awaitGone(ns)
	w.awaitDesired("pi-1")
}

// orphan stores a Deployment's key and manifest for a device, as an operator
// left them that is gone.
func (w *world) orphan(id wire.DeviceID, dep wire.DeploymentID) {
	w.Helper()
	canonical, err := score.Encode(scoreOf("registry.example/orphan:1"))
	w.must(err)
	w.put(wire.DesiredState, wire.DeploymentKey(id, dep), canonical)
	manifest, err := w.broker.Manifest(id, 7, map[string]wire.ManifestEntry{dep.Token(): {Revision: 1, Digest: score.DigestOf(canonical)}})
	w.must(err)
	w.put(wire.DesiredState, wire.DeviceKey(id), manifest)
}

// TestOrphans: keys without a Deployment go, after convergence and after a read
// that is not from a cache; and while that read fails, they stay.
func TestOrphans(t *testing.T) {
	w := newWorld(t)
	namespace := w.namespace()
	dep := wire.DeploymentID{Namespace: namespace, Name: "left-behind"}
	w.announce("pi-1", nil)
	w.must(w.api.Create(t.Context(), &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "pi-1"}}))
	w.orphan("pi-1", dep)
	var refuse atomic.Bool
	refuse.Store(true)
	r := w.startConverged(func(r *running) {
		r.traffic.intercept = func(q *http.Request, _ http.RoundTripper) (*http.Response, error) {
			if refuse.Load() && strings.HasSuffix(q.URL.Path, "/deployments/left-behind") {
				return notFound(q), nil // the kind is unknown: that proves nothing
			}
			return nil, nil
		}
	})
	r.waitLog("its keys stay")
	w.never("keys removed without proof", 2*time.Second, func() error { return w.stored("pi-1", dep) })
	refuse.Store(false)
	w.awaitDesired("pi-1")
	if m := w.manifest("pi-1"); m.Generation <= 7 {
		t.Errorf("the manifest went back to generation %d", m.Generation)
	}
	if len(r.traffic.find(http.MethodGet, "/deployments/left-behind")) < 2 {
		t.Error("the API server was not asked whether the Deployment is gone")
	}
}

func (w *world) stored(id wire.DeviceID, dep wire.DeploymentID) error {
	if m := w.manifest(id); m == nil || m.Deployments[dep.Token()].Digest == "" {
		return fmt.Errorf("the manifest is %+v", m)
	}
	if w.get(wire.DesiredState, wire.DeploymentKey(id, dep)) == nil {
		return errors.New("the key is gone")
	}
	return nil
}

// notFound is how an API server answers for a kind that it does not serve.
func notFound(q *http.Request) *http.Response {
	return answer(q, http.StatusNotFound, "text/plain", "404 page not found\n")
}

// TestTruncatedList: lists that lack what is there delete nothing.
func TestTruncatedList(t *testing.T) {
	for kind, path := range map[string]string{
		"deployments": "/apis/fleet.nationtech.io/v1alpha1/deployments", "devices": "/apis/fleet.nationtech.io/v1alpha1/devices",
	} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			first := w.startConverged()
			namespace := w.namespace()
			var all []*v1alpha1.Deployment
			for _, id := range []wire.DeviceID{"pi-1", "pi-2", "pi-3"} {
				w.announce(id, map[string]string{"group": "a"})
			}
			for i := range 5 {
				d := deployment(namespace, fmt.Sprintf("web-%d", i), "a")
				w.must(w.api.Create(t.Context(), d))
				all = append(all, d)
			}
			for _, id := range []wire.DeviceID{"pi-1", "pi-2", "pi-3"} {
				w.awaitDesired(id, all...)
			}
			first.stop()
			before := w.lastSequence(wire.DesiredState)
			r := w.startConverged(func(r *running) { r.traffic.intercept = truncate(t, path) }) //nolint:bodyclose // the client closes it
			w.never("writes after a truncated list", 3*time.Second, func() error {
				if now := w.lastSequence(wire.DesiredState); now != before {
					return fmt.Errorf("the bucket went from %d to %d", before, now)
				}
				return nil
			})
			if n := r.metric("fleet_"+kind, ""); n == 0 || n > 4 {
				t.Errorf("the operator knows %v %s: the list was not truncated", n, kind)
			}
		})
	}
}

// truncate drops all but the first item of the first list of a kind.
func truncate(t *testing.T, path string) func(*http.Request, http.RoundTripper) (*http.Response, error) {
	done := false
	return func(q *http.Request, next http.RoundTripper) (*http.Response, error) {
		switch {
		case q.URL.Path != path || done:
			return nil, nil
		case q.URL.Query().Get("sendInitialEvents") != "":
			// An API server that cannot stream lists: the client lists instead.
			status := metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity}
			body, err := json.Marshal(status)
			return answer(q, http.StatusUnprocessableEntity, "application/json", string(body)), err
		case q.URL.Query().Get("watch") != "":
			return nil, nil
		}
		q = q.Clone(q.Context())
		q.Header.Set("Accept", "application/json")
		got, err := next.RoundTrip(q)
		if err != nil {
			return nil, err
		}
		defer got.Body.Close()
		var list map[string]any
		if err := json.NewDecoder(got.Body).Decode(&list); err != nil {
			return nil, err
		}
		items, _ := list["items"].([]any)
		if len(items) < 2 {
			t.Errorf("the list has %d items, want more to drop", len(items))
		}
		list["items"] = items[:1]
		done = true
		body, err := json.Marshal(list)
		return answer(q, http.StatusOK, "application/json", string(body)), err
	}
}
