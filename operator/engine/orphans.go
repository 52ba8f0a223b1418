package engine

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// orphanTick is how often the core is asked for keys without a resource.
	orphanTick = time.Second
	// orphanPause is the time until a Deployment is asked for again that is
	// there although the cache does not know it.
	orphanPause = time.Minute
)

// confirmOrphans looks for the Deployments of keys that seem to have none, and
// lets the core take those keys back whose Deployment is certainly gone. A list
// that lacks one proves nothing.
func (e *Engine) confirmOrphans(ctx context.Context) {
	alive := map[wire.DeploymentID]time.Time{} // when each was last seen to be there
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(orphanTick):
		}
		e.mu.Lock()
		unowned := e.core.Unowned()
		e.mu.Unlock()
		for _, id := range unowned {
			if seen, found := alive[id]; found && time.Since(seen) < orphanPause {
				continue
			}
			if err := e.confirmOrphan(ctx, id, alive); err != nil {
				if ctx.Err() == nil {
					e.o.Log.Info("cannot tell whether a deployment is gone; its keys stay", "deployment", id.String(), "reason", err.Error())
				}
				break // the others would fail in the same way
			}
		}
	}
}

func (e *Engine) confirmOrphan(ctx context.Context, id wire.DeploymentID, alive map[wire.DeploymentID]time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	gone, err := e.Gone(ctx, &v1alpha1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: id.Namespace, Name: id.Name}})
	switch {
	case err != nil:
		return err
	case !gone:
		alive[id] = time.Now()
		e.o.Log.Info("keeping keys of a deployment that the cache does not know and the API server has", "deployment", id.String())
		return nil
	}
	delete(alive, id)
	e.mu.Lock()
	e.core.ConfirmGone(id)
	e.mu.Unlock()
	e.o.Log.Info("removing keys of a deployment that is gone", "deployment", id.String())
	e.poke()
	return nil
}
