package openbao

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/openbao/openbao/api/v2"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Folders of the engine.
const (
	devices    = "devices/"
	enrolments = "enrolments/"
	revoked    = "revoked/"
)

// kv is an engine of the type KV version 2.
type kv struct {
	client *api.Client
	mount  string
	// call does one exchange.
	call func(context.Context, func(context.Context) (*api.Secret, error)) (*api.Secret, error)
}

// value is what is at a path: data is nil when nothing is, and version is to be
// named by who writes there next: "" for a path where nothing ever was.
type value struct {
	data    []byte
	version string
}

// number is a version as OpenBao counts it.
func number(version string) (int, error) {
	if version == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(version)
	if err != nil {
		return 0, fmt.Errorf("version %q is not one of OpenBao's", version)
	}
	return n, nil
}

// read asks for what is at a path now.
func (k kv) read(ctx context.Context, path string) (value, error) {
	secret, err := k.call(ctx, func(ctx context.Context) (*api.Secret, error) {
		return k.client.Logical().ReadWithContext(ctx, k.mount+"/data/"+path)
	})
	if err != nil || secret == nil { // never there
		return value{}, err
	}
	var v value
	if metadata, ok := secret.Data["metadata"].(map[string]any); ok {
		number, _ := metadata["version"].(json.Number)
		if _, err := number.Int64(); err != nil {
			return value{}, fmt.Errorf("the answer about %s has no version", path)
		}
		v.version = number.String()
	}
	if secret.Data["data"] != nil { // nil for what is deleted
		v.data, err = json.Marshal(secret.Data["data"])
	}
	return v, err
}

// write puts something at a path whose version is still the one named. It fails
// with policy.ErrChanged.
func (k kv) write(ctx context.Context, path string, what any, version string) error {
	last, err := number(version)
	if err != nil {
		return err
	}
	_, err = k.call(ctx, func(ctx context.Context) (*api.Secret, error) {
		return k.client.Logical().WriteWithContext(ctx, k.mount+"/data/"+path, map[string]any{
			"data": what, "options": map[string]any{"cas": last},
		})
	})
	var refused *api.ResponseError
	if errors.As(err, &refused) && refused.StatusCode == http.StatusBadRequest && strings.Contains(err.Error(), "check-and-set") {
		return policy.ErrChanged
	}
	return err
}

// erase removes a path with all that ever was there, and succeeds when nothing is.
func (k kv) erase(ctx context.Context, path string) error {
	_, err := k.call(ctx, func(ctx context.Context) (*api.Secret, error) {
		return k.client.Logical().DeleteWithContext(ctx, k.mount+"/metadata/"+path)
	})
	return err
}

// records reads what is decided of a device. The policy is read first: who then
// writes it in the version that was read knows that a token which was there after
// it was not withdrawn before. It fails with policy.ErrMalformed.
func (k kv) records(ctx context.Context, id wire.DeviceID) (policy.Records, error) {
	var r policy.Records
	decided, err := k.read(ctx, devices+string(id))
	if err != nil {
		return r, fmt.Errorf("reading the policy of %q: %w", id, err)
	}
	r.Version = decided.version
	if decided.data != nil {
		p, err := policy.Decode(decided.data)
		if err != nil {
			return r, fmt.Errorf("device %q: %w", id, err)
		}
		r.Policy = &p
	}
	pending, err := k.read(ctx, enrolments+string(id))
	if err != nil {
		return r, fmt.Errorf("reading the enrolment of %q: %w", id, err)
	}
	if pending.data != nil {
		e, err := policy.DecodeEnrolment(pending.data)
		if err != nil {
			return r, fmt.Errorf("device %q: %w", id, err)
		}
		r.Enrolment = &e
	}
	return r, nil
}

// putPolicy writes a policy whose place has that version.
func (k kv) putPolicy(ctx context.Context, id wire.DeviceID, p policy.Policy, version string) error {
	data, err := p.Encode()
	if err != nil {
		return err
	}
	if err := k.write(ctx, devices+string(id), json.RawMessage(data), version); err != nil {
		return fmt.Errorf("writing the policy of %q: %w", id, err)
	}
	return nil
}

// dropEnrolment makes the token of a device useless.
func (k kv) dropEnrolment(ctx context.Context, id wire.DeviceID) error {
	if err := k.erase(ctx, enrolments+string(id)); err != nil {
		return fmt.Errorf("removing the enrolment of %q: %w", id, err)
	}
	return nil
}
