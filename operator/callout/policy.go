package callout

import (
	"context"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Policies is where the policies of devices are kept.
type Policies interface {
	// Policy of a device. It fails with policy.ErrNone, policy.ErrRevoked or
	// policy.ErrMalformed when that is certain, and otherwise because it could not
	// be found out.
	Policy(context.Context, wire.DeviceID) (policy.Policy, error)
}
