package callout

import (
	"context"
	"errors"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// ErrNoPolicy says that nothing is decided of a device: it was never enrolled, or
// is removed.
var ErrNoPolicy = errors.New("there is no policy of the device")

// Policies is where the policies of devices are kept.
type Policies interface {
	// Policy of a device. It fails with ErrNoPolicy when there certainly is none,
	// and with policy.ErrMalformed when it cannot be read.
	Policy(context.Context, wire.DeviceID) (policy.Policy, error)
}
