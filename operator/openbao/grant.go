package openbao

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/openbao/openbao/api/v2"

	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// ErrNoEntity says that OpenBao's identity store does not know a device: it was
// not enrolled as one that logs in there.
var ErrNoEntity = errors.New("OpenBao has no entity of the device")

// Grant lets the device read exactly these secrets from now on, and returns how
// many of them exceed what one device may read. Nothing is written when that holds
// already. It fails with ErrNoEntity for a device that should read some and cannot
// log in.
func (s *Store) Grant(ctx context.Context, id wire.DeviceID, refs []secret.Ref) (over int, err error) {
	path := entityPath(id)
	entity, err := s.call(ctx, func(ctx context.Context) (*api.Secret, error) { return s.client.Logical().ReadWithContext(ctx, path) })
	if err != nil {
		return 0, fmt.Errorf("reading what device %q may read: %w", id, err)
	}
	if entity == nil {
		if len(refs) > 0 {
			err = ErrNoEntity
		}
		return 0, err
	}
	before := map[string]string{}
	held, _ := entity.Data["metadata"].(map[string]any) // nil when there is none
	for key, value := range held {
		before[key], _ = value.(string)
	}
	metadata, over := secret.Grant(before, refs)
	if maps.Equal(before, metadata) {
		return over, nil
	}
	body := map[string]any{"metadata": metadata}
	if _, err := s.call(ctx, func(ctx context.Context) (*api.Secret, error) {
		return s.client.Logical().WriteWithContext(ctx, path, body)
	}); err != nil {
		return 0, fmt.Errorf("writing what device %q may read: %w", id, err)
	}
	return over, nil
}
