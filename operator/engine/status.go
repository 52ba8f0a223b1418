package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

const (
	// patchTick is how often the core is asked for statuses that changed.
	patchTick = 100 * time.Millisecond
	// patchWorkers is how many patches are under way at once, and patchBatch how
	// many are taken from the core at once: few, so that a status is fresh when
	// it is written, however slow the API server is.
	patchWorkers, patchBatch = 8, 32
	// patchPause follows a failure of the API server.
	patchPause = time.Second
)

// patch writes statuses and conditions within the budget until ctx ends. Devices
// get up to a quarter of it first and what is left over last, so that neither can
// starve the other.
func (e *Engine) patch(ctx context.Context) {
	perSecond := e.o.Config.Status.PatchesPerSecond
	budget := rate.NewLimiter(rate.Limit(perSecond), perSecond)
	pause := patchTick
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = patchTick
		n := min(patchBatch, int(budget.Tokens()))
		now := e.o.Now()
		e.mu.Lock()
		devices := e.core.TakeDevices(now, (n+3)/4)
		deployments := e.core.TakeStatus(now, n-len(devices))
		devices = append(devices, e.core.TakeDevices(now, n-len(devices)-len(deployments))...)
		e.mu.Unlock()
		budget.AllowN(time.Now(), len(devices)+len(deployments))
		switch ok := e.patchAll(ctx, devices, deployments); {
		case !ok:
			pause = patchPause
		case n > 0 && len(devices)+len(deployments) == n:
			pause = 0 // there may be more
		}
	}
}

// patchAll patches in parallel and reports whether the API server took it all.
func (e *Engine) patchAll(ctx context.Context, devices []fleet.DevicePatch, deployments []fleet.StatusPatch) bool {
	work := make(chan func() error)
	var workers sync.WaitGroup
	var mu sync.Mutex
	var failures []error // guarded by mu
	for range min(patchWorkers, len(devices)+len(deployments)) {
		workers.Go(func() {
			for do := range work {
				if err := do(); err != nil {
					mu.Lock()
					failures = append(failures, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, p := range devices {
		work <- func() error { return e.patchDevice(ctx, p) }
	}
	for _, p := range deployments {
		work <- func() error { return e.patchStatus(ctx, p) }
	}
	close(work)
	workers.Wait()
	if len(failures) > 0 && ctx.Err() == nil {
		e.o.Log.Info("statuses are not written; trying again", "count", len(failures), "reason", failures[0].Error())
	}
	return len(failures) == 0
}

// patchStatus writes one Deployment's status. The patch tests the UID, so that a
// resource that was created anew under the name is left alone.
func (e *Engine) patchStatus(ctx context.Context, p fleet.StatusPatch) error {
	d := &v1alpha1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: p.ID.Namespace, Name: p.ID.Name}}
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": p.UID},
		{"op": "add", "path": "/status", "value": p.Status},
	})
	written := false
	if err == nil {
		written, err = e.send(ctx, d, client.RawPatch(types.JSONPatchType, patch))
	}
	e.mu.Lock()
	e.core.StatusWritten(p, err == nil)
	e.mu.Unlock()
	if err != nil {
		return fmt.Errorf("patching the status of deployment %s: %w", p.ID, err)
	}
	if !written {
		return nil
	}
	e.metrics.age.Observe(e.o.Now().Sub(p.Since).Seconds())
	e.tell(d, p.Event)
	return nil
}

// patchDevice writes the conditions of one Device.
func (e *Engine) patchDevice(ctx context.Context, p fleet.DevicePatch) error {
	d := &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: string(p.ID)}}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": p.Conditions}})
	written := false
	if err == nil {
		written, err = e.send(ctx, d, client.RawPatch(types.MergePatchType, patch))
	}
	e.mu.Lock()
	e.core.DeviceWritten(p, err == nil)
	e.mu.Unlock()
	if err != nil {
		return fmt.Errorf("patching the conditions of device %s: %w", p.ID, err)
	}
	if written && p.Event != nil {
		e.o.Log.Info("a device needs a person", "device", p.ID, "reason", p.Event.Reason, "problem", p.Event.Message)
		e.tell(d, p.Event)
	}
	return nil
}

// tell records an event about an object, unless there is none.
func (e *Engine) tell(about client.Object, event *fleet.Event) {
	if event != nil {
		e.o.Events.Eventf(about, nil, event.Type, event.Reason, "Report", "%s", event.Message)
	}
}

// send patches the status of an object. One that is gone, or is not the one that
// was meant, needs no status: it is not written, and that is no error.
func (e *Engine) send(ctx context.Context, object client.Object, patch client.Patch) (written bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = e.o.Client.Status().Patch(ctx, object, patch, FieldOwner)
	switch {
	case err == nil:
		e.metrics.patches.WithLabelValues(resultOK).Inc()
		return true, nil
	case apierrors.IsNotFound(err), apierrors.IsInvalid(err):
		e.metrics.patches.WithLabelValues(resultRefused).Inc()
		e.o.Log.V(1).Info("status refused", "name", object.GetName(), "namespace", object.GetNamespace(), "reason", err.Error())
		return false, nil
	}
	e.metrics.patches.WithLabelValues(resultError).Inc()
	return false, err
}
