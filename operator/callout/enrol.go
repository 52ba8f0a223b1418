package callout

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// joinSession is how long the connection of a device that has just joined
	// lasts: it hears the answer, and comes again with its key alone.
	joinSession = time.Minute
	// joinTries is how often a policy is read and written when others write it too.
	joinTries = 3
	// joinRate and joinBurst bound the tokens of enrolment that are looked at, in a
	// second and at once: each costs the store several reads, and made-up ones are
	// free.
	joinRate, joinBurst = 20, 100
)

// errTooMany is no answer, so the device tries again.
var errTooMany = errors.New("too many tokens of enrolment at once")

// Enrolments is where tokens of enrolment are kept, beside the policies.
type Enrolments interface {
	// Recent is Policy as it was moments ago: the device may have joined since.
	Recent(context.Context, wire.DeviceID) (policy.Policy, error)
	// Records of a device as they are now, and not as they are remembered. It fails
	// with policy.ErrMalformed when that is certain.
	Records(context.Context, wire.DeviceID) (policy.Records, error)
	// Admit writes the device's key, if what is decided of it is still as Records
	// told: a policy without a key, and a token. It fails with policy.ErrChanged when
	// it is not.
	Admit(ctx context.Context, id wire.DeviceID, key string, r policy.Records) error
	// Spend makes the device's token useless.
	Spend(context.Context, wire.DeviceID) error
}

// bearer is a device that wants to join: it signed with the key.
type bearer struct {
	token   policy.Token
	key     string
	address string
}

// redeem decides whether the bearer's key may be written into the policy. known
// says that it is there already: the token was used by the same key, whose answer
// was lost perhaps, or by a replica that died before it could spend it. It fails
// with ErrDenied.
//
// A policy that has another key says that the token was used, whether or not it
// was spent: so the one write that lets the device in is also the one that makes
// the token useless, and of two devices that race the store takes one.
func redeem(r policy.Records, b bearer, now time.Time) (known bool, err error) {
	switch device := b.token.Device; {
	case r.Policy == nil:
		return false, denied("device %q: %v", device, policy.ErrNone)
	case r.Revocation != nil:
		return false, denied("device %q: %v", device, policy.ErrRevoked)
	case !r.Policy.From(b.address):
		return false, denied("device %q joins from %s, outside of the networks of its policy", device, b.address)
	case r.Policy.NKey == b.key:
		return true, nil
	case r.Policy.NKey != "":
		return false, denied("device %q brings a token of enrolment that was used, with another key", device)
	case r.Enrolment == nil:
		return false, denied("device %q brings a token of enrolment that was used or withdrawn", device)
	}
	if err := r.Enrolment.Admits(b.token, now); err != nil {
		return false, denied("device %q: %v", b.token.Device, err)
	}
	return false, nil
}

// proveByEnrolment lets a device in that brings a token of enrolment, and writes
// the key that it signed with into its policy.
func (j *judge) proveByEnrolment(ctx context.Context, request *jwt.AuthorizationRequest) (proven, error) {
	o := request.ConnectOptions
	token, err := policy.ParseToken(o.Token)
	if err != nil {
		return proven{}, denied("%v", err)
	}
	if o.Nkey == "" {
		return proven{}, denied("device %q brings a token of enrolment without a key", token.Device)
	}
	p, err := j.proveKey(o, request.ClientInformation.Nonce)
	if err != nil {
		return proven{}, err
	}
	if p.Device != token.Device {
		return proven{}, denied("device %q brings a token of enrolment of %q", p.Device, token.Device)
	}
	if j.enrolments == nil {
		return proven{}, denied("device %q brings a token of enrolment, and nobody is enrolled here", p.Device)
	}
	if !j.joins.AllowN(j.now(), 1) {
		return proven{}, errTooMany
	}
	p.joins, p.Expires = true, j.now().Add(joinSession)
	return p, j.enrol(ctx, bearer{token: token, key: p.nkey, address: request.ClientInformation.Host})
}

// enrol has the bearer's key in its policy, or fails with ErrDenied, or because
// that could not be brought about: then the same bearer may try again.
func (j *judge) enrol(ctx context.Context, b bearer) error {
	for range joinTries {
		records, err := j.enrolments.Records(ctx, b.token.Device)
		if errors.Is(err, policy.ErrMalformed) {
			return denied("%v", err)
		}
		if err != nil {
			return err
		}
		known, err := redeem(records, b, j.now())
		if err != nil {
			return err
		}
		if !known {
			err := j.enrolments.Admit(ctx, b.token.Device, b.key, records)
			if errors.Is(err, policy.ErrChanged) {
				continue
			}
			if err != nil {
				return err
			}
			j.log.Info("enrolled", "device", b.token.Device, "key", b.key, "host", b.address)
		}
		if records.Enrolment != nil {
			// Without the key of the policy it is useless already.
			if err := j.enrolments.Spend(ctx, b.token.Device); err != nil {
				j.log.Info("a used token of enrolment is left behind", "device", b.token.Device, "reason", err.Error())
			}
		}
		return nil
	}
	return policy.ErrChanged
}
