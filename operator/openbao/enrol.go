package openbao

import (
	"context"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Records of a device as they are now, and not as they are remembered. It fails
// with policy.ErrMalformed when that is certain.
func (s *Store) Records(ctx context.Context, id wire.DeviceID) (policy.Records, error) {
	r, err := s.kv.records(ctx, id)
	if err != nil {
		return policy.Records{}, err
	}
	revoked, err := s.readRevoked(ctx)
	if revoked[id] {
		r.Revocation = &policy.Revocation{} // more than that is not read
	}
	return r, err
}

// Admit writes the device's key into its policy, if that is still as Records told.
// It fails with policy.ErrChanged.
func (s *Store) Admit(ctx context.Context, id wire.DeviceID, key string, r policy.Records) error {
	defer s.known.Remove(id)
	admitted := *r.Policy
	admitted.NKey = key
	return s.kv.putPolicy(ctx, id, admitted, r.Version)
}

// Spend makes the device's token useless.
func (s *Store) Spend(ctx context.Context, id wire.DeviceID) error {
	return s.kv.dropEnrolment(ctx, id)
}
