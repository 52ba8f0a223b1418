package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/fleet"
)

const (
	// infoWorkers is how many Devices are applied at once.
	infoWorkers = 8
	// annotationReported on a Device is a digest of the labels that were applied
	// from its report: it tells a label that the device no longer reports from
	// one that somebody else set.
	annotationReported = v1alpha1.Group + "/reported-labels"
)

// infoQueue holds the newest report of each device until its Device is applied.
type infoQueue struct {
	queue   workqueue.TypedRateLimitingInterface[wire.DeviceID]
	failing atomic.Bool // since the last success

	mu     sync.Mutex
	newest map[wire.DeviceID]wire.DeviceInfo // guarded by mu
}

func newInfoQueue() *infoQueue {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[wire.DeviceID](100*time.Millisecond, 30*time.Second)
	return &infoQueue{queue: workqueue.NewTypedRateLimitingQueue(limiter), newest: map[wire.DeviceID]wire.DeviceInfo{}}
}

func (q *infoQueue) put(id wire.DeviceID, info wire.DeviceInfo) {
	q.mu.Lock()
	q.newest[id] = info
	q.mu.Unlock()
	q.queue.Add(id)
}

func (q *infoQueue) take(id wire.DeviceID) (wire.DeviceInfo, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	info, found := q.newest[id]
	delete(q.newest, id)
	return info, found
}

// putBack queues a report again after a failure, unless a newer one came.
func (q *infoQueue) putBack(id wire.DeviceID, info wire.DeviceInfo) {
	q.mu.Lock()
	if _, newer := q.newest[id]; !newer {
		q.newest[id] = info
	}
	q.mu.Unlock()
	q.queue.AddRateLimited(id)
}

// applyInfos applies Devices until ctx ends.
func (e *Engine) applyInfos(ctx context.Context) {
	stop := context.AfterFunc(ctx, e.infos.queue.ShutDown)
	defer stop()
	var workers sync.WaitGroup
	for range infoWorkers {
		workers.Go(func() {
			for {
				id, shutdown := e.infos.queue.Get()
				if shutdown {
					return
				}
				e.applyInfo(ctx, id)
				e.infos.queue.Done(id)
			}
		})
	}
	workers.Wait()
}

func (e *Engine) applyInfo(ctx context.Context, id wire.DeviceID) {
	info, found := e.infos.take(id)
	if !found {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := e.applyDevice(ctx, id, info); err != nil {
		if !e.infos.failing.Swap(true) { // one line tells of an outage, not one per device
			e.o.Log.Info("cannot apply devices; trying again", "device", id, "reason", err.Error())
		}
		e.infos.putBack(id, info)
		return
	}
	e.infos.failing.Store(false)
	e.infos.queue.Forget(id)
}

// applyDevice makes the Device say what the device reported. It writes nothing
// when it says so already.
func (e *Engine) applyDevice(ctx context.Context, id wire.DeviceID, info wire.DeviceInfo) error {
	allows, err := e.allowed(ctx, id)
	if errors.Is(err, policy.ErrRevoked) {
		return e.departIfRemoved(ctx, id) // whatever it said last, a Device stays as it is
	}
	if err != nil {
		return err
	}
	labels, conflicts := fleet.SanitizeLabels(id, info.Labels, allows)
	reported, err := digestOf(labels)
	if err != nil {
		return err
	}
	device := &v1alpha1.Device{}
	err = e.o.Client.Get(ctx, client.ObjectKey{Name: string(id)}, device)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading the device: %w", err)
	}
	if device.Annotations[annotationReported] != reported || !carries(device.Labels, labels) || inventoryOf(device) != info.Inventory {
		apply, err := deviceApply(id, labels, info.Inventory)
		if err != nil {
			return err
		}
		apply.SetAnnotations(map[string]string{annotationReported: reported})
		if err := e.o.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(apply), FieldOwner, client.ForceOwnership); err != nil {
			return fmt.Errorf("applying the device: %w", err)
		}
	}
	if slices.Equal(device.Status.LabelConflicts, conflicts) {
		return nil
	}
	return e.patchConflicts(ctx, id, conflicts)
}

func inventoryOf(device *v1alpha1.Device) wire.Inventory {
	if device.Spec.Inventory == nil {
		return wire.Inventory{}
	}
	return *device.Spec.Inventory
}

// allowed is which labels the device may claim: with a label it asks for what is
// meant for whoever has it. One without a usable policy may claim none. It fails
// with policy.ErrRevoked, or because it could not be found out.
func (e *Engine) allowed(ctx context.Context, id wire.DeviceID) (func(key, value string) bool, error) {
	if e.o.Policies == nil {
		return func(string, string) bool { return true }, nil
	}
	decided, err := e.o.Policies.Policy(ctx, id)
	if errors.Is(err, policy.ErrNone) || errors.Is(err, policy.ErrMalformed) {
		return func(string, string) bool { return false }, nil
	}
	return decided.Allows, err
}

// deviceApply holds what the operator owns of a Device, and no zero values, nor an
// object without fields: where one had some before, the API server would make it
// null and refuse that.
func deviceApply(id wire.DeviceID, labels map[string]string, inventory wire.Inventory) (*unstructured.Unstructured, error) {
	plain, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&inventory)
	if err != nil {
		return nil, fmt.Errorf("converting the inventory: %w", err)
	}
	apply := &unstructured.Unstructured{Object: map[string]any{}}
	if len(plain) > 0 {
		apply.Object["spec"] = map[string]any{"inventory": plain}
	}
	apply.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Device"))
	apply.SetName(string(id))
	apply.SetLabels(labels)
	return apply, nil
}

func (e *Engine) patchConflicts(ctx context.Context, id wire.DeviceID, conflicts []string) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"labelConflicts": conflicts}})
	if err != nil {
		return fmt.Errorf("encoding label conflicts: %w", err)
	}
	device := &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: string(id)}}
	if err := e.o.Client.Status().Patch(ctx, device, client.RawPatch(types.MergePatchType, patch), FieldOwner); err != nil {
		return fmt.Errorf("patching label conflicts: %w", err)
	}
	return nil
}

// carries reports whether all of wanted is in labels.
func carries(labels, wanted map[string]string) bool {
	for key, value := range wanted {
		if have, found := labels[key]; !found || have != value {
			return false
		}
	}
	return true
}

// digestOf identifies a set of labels.
func digestOf(labels map[string]string) (string, error) {
	data, err := json.Marshal(labels)
	if err != nil {
		return "", fmt.Errorf("encoding labels: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8]), nil
}
