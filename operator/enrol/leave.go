package enrol

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// forgottenTick is how often it is looked whether a device is forgotten.
const forgottenTick = 2 * time.Second

// Revoke keeps a device out until it is enrolled anew, and withdraws its token. For
// one that is revoked already it tells the revocation that there is. It fails for
// a device that is not enrolled.
func (r *Registry) Revoke(ctx context.Context, id wire.DeviceID, reason string) (already *policy.Revocation, err error) {
	records, err := r.Store.Records(ctx, id)
	if err != nil && !errors.Is(err, policy.ErrMalformed) { // a policy that cannot be read must not keep a thief in
		return nil, err
	}
	if err == nil && records.Policy == nil && records.Revocation == nil {
		return nil, fmt.Errorf("device %q is not enrolled, so nobody is let in by that id; see `kubectl fleet devices`", id)
	}
	if records.Revocation == nil || records.Revocation.Passing {
		revocation := policy.Revocation{Reason: reason, By: r.Store.Who(ctx), At: r.at()}
		if err := r.Store.PutRevocation(ctx, id, revocation, records.RevocationVersion); err != nil {
			return nil, raced(err)
		}
		return nil, r.Store.DropEnrolment(ctx, id)
	}
	return records.Revocation, r.Store.DropEnrolment(ctx, id)
}

// Remove frees the id of a device: it is cut off and kept out until nothing is left
// of it, in the store of policies, in the cluster and at the broker. That takes as
// long as the operator takes to believe that the device is silent, some minutes.
func (r *Registry) Remove(ctx context.Context, id wire.DeviceID) error {
	records, err := r.Store.Records(ctx, id)
	if err != nil {
		return err
	}
	left, err := r.leftovers(ctx, id)
	if err != nil {
		return err
	}
	if records.Policy == nil && records.Enrolment == nil && records.Revocation == nil && !left {
		return fmt.Errorf("device %q is not known: there is nothing to remove", id)
	}
	revocation, err := r.shut(ctx, id, records, "being removed")
	if err != nil {
		return err
	}
	if err := r.untilCut(ctx, id, revocation); err != nil {
		return err
	}
	if err := r.erase(ctx, id, records); err != nil {
		return err
	}
	if err := r.untilForgotten(ctx, id); err != nil {
		return err
	}
	return r.Store.DropRevocation(ctx, id)
}

// erase removes all but the revocation from the store of policies.
func (r *Registry) erase(ctx context.Context, id wire.DeviceID, records policy.Records) error {
	if err := r.Store.DropEnrolment(ctx, id); err != nil {
		return err
	}
	if err := r.Store.DestroyPolicy(ctx, id, records.Version); err != nil {
		return err
	}
	if r.Entities == nil {
		return nil
	}
	return r.Entities.DropEntity(ctx, id)
}

// leftovers reports whether the cluster or the broker has anything of the device.
func (r *Registry) leftovers(ctx context.Context, id wire.DeviceID) (bool, error) {
	exists, err := r.Cluster.HasDevice(ctx, id)
	if err != nil {
		return false, err
	}
	remembered, err := r.Broker.Remembers(ctx, id)
	return exists || remembered, err
}

// untilForgotten waits until neither the cluster nor the broker has anything of
// the device. The operator may make the Device once more from a report that was on
// its way.
func (r *Registry) untilForgotten(ctx context.Context, id wire.DeviceID) error {
	for told := false; ; told = true {
		if err := r.Cluster.DeleteDevice(ctx, id); err != nil {
			return err
		}
		left, err := r.leftovers(ctx, id)
		if err != nil {
			return err
		}
		if !left {
			return nil
		}
		if !told {
			r.Tell(fmt.Sprintf("waiting until the operator has forgotten device %s, %s after its last sign of life ...", id, wire.HeartbeatTimeout))
		}
		if err := r.Wait(ctx, forgottenTick); err != nil {
			return fmt.Errorf("interrupted: device %q stays revoked, run this again: %w", id, err)
		}
	}
}
