package openbao

import (
	"context"
	"errors"
	"fmt"

	"github.com/openbao/openbao/api/v2"

	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// entityPath is that of the entity under which OpenBao knows a device that logs
// in there: what the device may read of secrets follows from its metadata.
func entityPath(id wire.DeviceID) string { return "identity/entity/name/" + secret.EntityName(id) }

// PutEntity has OpenBao know the device: a login at the mount below auth/ by that
// name is one of its entity. The entity has no metadata then, whatever
// it had.
func (a *Admin) PutEntity(ctx context.Context, id wire.DeviceID, mount, name string) error {
	accessor, err := a.accessor(ctx, mount)
	if err != nil {
		return err
	}
	if err := a.emptyEntity(ctx, id); err != nil {
		return err
	}
	entity, err := a.readAny(ctx, entityPath(id))
	if err != nil {
		return fmt.Errorf("reading the entity of %q: %w", id, err)
	}
	_, err = a.call(ctx, func(ctx context.Context) (*api.Secret, error) {
		return a.client.Logical().WriteWithContext(ctx, "identity/entity-alias", map[string]any{
			"name": name, "mount_accessor": accessor, "canonical_id": entity["id"],
		})
	})
	if err != nil {
		return fmt.Errorf("writing the alias %q of the entity of %q: %w", name, id, err)
	}
	return nil
}

// ClearEntity takes all metadata from the entity of a device, if it has one.
func (a *Admin) ClearEntity(ctx context.Context, id wire.DeviceID) error {
	_, err := a.readAny(ctx, entityPath(id))
	if errors.Is(err, errNothing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the entity of %q: %w", id, err)
	}
	return a.emptyEntity(ctx, id)
}

// DropEntity removes the entity of a device with its aliases, if it has one.
func (a *Admin) DropEntity(ctx context.Context, id wire.DeviceID) error {
	_, err := a.call(ctx, func(ctx context.Context) (*api.Secret, error) {
		return a.client.Logical().DeleteWithContext(ctx, entityPath(id))
	})
	if err != nil {
		return fmt.Errorf("removing the entity of %q: %w", id, err)
	}
	return nil
}

// emptyEntity has the entity be there, without metadata.
func (a *Admin) emptyEntity(ctx context.Context, id wire.DeviceID) error {
	_, err := a.call(ctx, func(ctx context.Context) (*api.Secret, error) {
		return a.client.Logical().WriteWithContext(ctx, entityPath(id), map[string]any{"metadata": map[string]string{}})
	})
	if err != nil {
		return fmt.Errorf("writing the entity of %q: %w", id, err)
	}
	return nil
}

// accessor is by what aliases name a login method.
func (a *Admin) accessor(ctx context.Context, mount string) (string, error) {
	methods, err := a.readAny(ctx, "sys/auth")
	if err != nil {
		return "", fmt.Errorf("reading the login methods of OpenBao: %w", err)
	}
	method, _ := methods[mount+"/"].(map[string]any)
	accessor, _ := method["accessor"].(string)
	if accessor == "" {
		return "", fmt.Errorf("OpenBao has no login method at auth/%s: name the one of the devices with --login-mount", mount)
	}
	return accessor, nil
}

// errNothing says that nothing is at a path.
var errNothing = errors.New("there is nothing")

func (a *Admin) readAny(ctx context.Context, path string) (map[string]any, error) {
	found, err := a.call(ctx, func(ctx context.Context) (*api.Secret, error) { return a.client.Logical().ReadWithContext(ctx, path) })
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, errNothing
	}
	return found.Data, nil
}
