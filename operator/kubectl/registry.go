package kubectl

import (
	"context"
	"fmt"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
)

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// HasDevice implements enrol.Cluster.
func (c *cluster) HasDevice(ctx context.Context, id wire.DeviceID) (bool, error) {
	found, err := c.device(ctx, id)
	if err != nil {
		return false, fmt.Errorf("looking for device %q in the cluster: %w", id, err)
	}
	return found != nil, nil
}

// DeleteDevice implements enrol.Cluster.
func (c *cluster) DeleteDevice(ctx context.Context, id wire.DeviceID) error {
	err := c.rest.Delete().Resource(devices).Name(string(id)).Do(ctx).Error()
	if err != nil && !isAbsent(err) {
		return fmt.Errorf("deleting device %q from the cluster: %w", id, explain(err))
	}
	return nil
}

// remembering is the broker for enrol.
type remembering struct{ *bus.Conn }

// Remembers implements enrol.Broker. The manifest stays for good, empty, so that
// its generation goes on.
func (r remembering) Remembers(ctx context.Context, id wire.DeviceID) (bool, error) {
	key := wire.DeviceKey(id)
	for bucket, filter := range map[wire.Bucket]string{
		wire.DeviceInfos: key, wire.DeviceHeartbeats: key,
		wire.DeviceStates: key + ".*.*", wire.DesiredState: key + ".*.*",
	} {
		entries, err := r.List(ctx, bucket, filter)
		if err != nil {
			return false, fmt.Errorf("looking for device %q at the broker: %w", id, err)
		}
		if len(entries) > 0 {
			return true, nil
		}
	}
	return false, nil
}
