package engine

import (
	"context"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
)

// departedTick is how often Devices that are gone are asked after.
const departedTick = time.Second

// departIfRemoved has a revoked device forgotten that has no Device: somebody removed
// it while no operator was there to see.
func (e *Engine) departIfRemoved(ctx context.Context, id wire.DeviceID) error {
	gone, err := e.Gone(ctx, &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: string(id)}})
	if gone {
		e.mu.Lock()
		e.departed[id] = true
		e.mu.Unlock()
	}
	return err
}

// forgetDeparted purges what the broker holds of devices whose resource a person
// deleted and whose agent has fallen silent: the next operator would make the
// Device anew from it. An agent that lives is no matter for this: it is there,
// and its Device comes back when it reports the next time.
func (e *Engine) forgetDeparted(ctx context.Context, conn *bus.Conn) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(departedTick):
		}
		for _, id := range e.silentDeparted() {
			if err := conn.PurgeDevice(ctx, id); err != nil {
				if ctx.Err() == nil {
					e.o.Log.Info("cannot forget a deleted device yet; trying again", "device", id, "reason", err.Error())
				}
				break // the others would fail in the same way
			}
			e.mu.Lock()
			delete(e.departed, id)
			e.core.ForgetStates(id)
			e.mu.Unlock()
			e.o.Log.Info("forgot a deleted device", "device", id)
		}
	}
}

// silentDeparted are the devices to forget now.
func (e *Engine) silentDeparted() []wire.DeviceID {
	now := e.o.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	var silent []wire.DeviceID
	for id := range e.departed {
		if e.core.Silent(id, now) {
			silent = append(silent, id)
		}
	}
	slices.Sort(silent)
	return silent
}
