// Package enrol is the life of a device in the store of policies: it is enrolled
// under an id that is free, given another key, revoked, and removed so that nothing
// is left for who has the id next. The order of the writes is such that whoever is
// interrupted can begin again, and that a device is rather kept out than let in.
//
// It acts for a person, with that person's rights; it never sees a device's key,
// and whether a device may connect is decided elsewhere.
package enrol

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Store is where policies, tokens of enrolment and revocations are kept. A write
// names the version that Records told, and fails with policy.ErrChanged when it is
// another by now.
type Store interface {
	// Who is the person, as the store names them; "" when it does not tell.
	Who(context.Context) string
	// RevokedWithin is the time after which whoever was connected when a revocation
	// was written is cut off.
	RevokedWithin() time.Duration
	// Records of a device as they are now. It fails with policy.ErrMalformed when
	// they cannot be read, and tells all the same whether the device is revoked.
	Records(context.Context, wire.DeviceID) (policy.Records, error)
	// PutPolicy writes a policy without a key.
	PutPolicy(ctx context.Context, id wire.DeviceID, p policy.Policy, version string) error
	// DestroyPolicy removes it, so that nobody who has read it can write it again.
	DestroyPolicy(ctx context.Context, id wire.DeviceID, version string) error
	// PutEnrolment keeps a token. It fails with policy.ErrChanged when there is one.
	PutEnrolment(context.Context, wire.DeviceID, policy.Enrolment) error
	// DropEnrolment makes the token of a device useless, if there is one.
	DropEnrolment(context.Context, wire.DeviceID) error
	// PutRevocation revokes a device.
	PutRevocation(ctx context.Context, id wire.DeviceID, r policy.Revocation, version string) error
	// DropRevocation ends the revocation, if there is one.
	DropRevocation(context.Context, wire.DeviceID) error
	Close()
}

// Entities are under which devices that bring tokens of a provider log in at a
// store of secrets.
type Entities interface {
	// PutEntity has a login at the mount by that name be one of the device, which
	// may read nothing then.
	PutEntity(ctx context.Context, id wire.DeviceID, mount, name string) error
	// ClearEntity takes from a device what it may read, if anything.
	ClearEntity(context.Context, wire.DeviceID) error
	// DropEntity removes the entity, if there is one.
	DropEntity(context.Context, wire.DeviceID) error
}

// Cluster is where the Devices are.
type Cluster interface {
	// HasDevice reports whether there is a Device.
	HasDevice(context.Context, wire.DeviceID) (bool, error)
	// DeleteDevice deletes it, and succeeds when there is none.
	DeleteDevice(context.Context, wire.DeviceID) error
}

// Broker is where the devices write.
type Broker interface {
	// Remembers reports whether anything is left that the device wrote, or that is
	// for it to run.
	Remembers(context.Context, wire.DeviceID) (bool, error)
}

// Registry changes what is kept of devices.
type Registry struct {
	Store Store
	// Entities is nil where there is no store of secrets.
	Entities Entities
	Cluster  Cluster
	// Broker is needed by Remove alone.
	Broker Broker
	Now    func() time.Time
	// Wait waits, and fails when ctx ends first.
	Wait func(ctx context.Context, d time.Duration) error
	// Tell tells the person what is being done, where it takes a while.
	Tell func(text string)
}

// Login is how a device proves who it is.
type Login struct {
	// Mount and Name are set for a device that brings tokens of a provider: the
	// login method of the store of secrets, below auth/, and the name that the device
	// has in those tokens. Else it has a key of its own.
	Mount, Name string
}

func (l Login) byToken() bool { return l.Name != "" }

// Request is what shall be true of a device.
type Request struct {
	Device wire.DeviceID
	// Policy without a key; for Renew, nil parts of it are kept as they are.
	Policy   policy.Policy
	ValidFor time.Duration
	Login    Login
}

// Ticket lets the device of a Request join.
type Ticket struct {
	// Token is the zero value for a device that brings tokens of a provider.
	Token   policy.Token
	Expires time.Time
	Policy  policy.Policy
}

// Enrol takes a free id for a device. The error says why an id is not free and what
// to do, or that somebody else took it at the same time.
func (r *Registry) Enrol(ctx context.Context, q Request) (Ticket, error) {
	exists, err := r.Cluster.HasDevice(ctx, q.Device)
	if err != nil {
		return Ticket{}, err
	}
	records, err := r.Store.Records(ctx, q.Device)
	if err != nil {
		return Ticket{}, err
	}
	if err := taken(q.Device, records, exists); err != nil {
		return Ticket{}, err
	}
	// The policy before the token: whoever writes the policy has the id.
	if err := r.Store.PutPolicy(ctx, q.Device, q.Policy, records.Version); err != nil {
		return Ticket{}, raced(err)
	}
	return r.issue(ctx, q, q.Policy)
}

// taken says why an id is not free, and what to do; nil when it is.
func taken(id wire.DeviceID, r policy.Records, exists bool) error {
	const again = "`kubectl fleet re-enroll %[1]s` lets it in with a new key, `kubectl fleet remove %[1]s` frees the id"
	advice := fmt.Sprintf(again, id)
	switch {
	case r.Revocation != nil:
		return fmt.Errorf("device id %q is not free: it is revoked (%s); %s", id, r.Revocation, advice)
	case r.Policy != nil && r.Policy.NKey == "" && r.Enrolment != nil:
		return fmt.Errorf("device id %q is not free: its device may join until %s; `kubectl fleet re-enroll %[1]s` prints another command for it, `kubectl fleet remove %[1]s` frees the id",
			id, r.Enrolment.Expires.Format(time.RFC3339))
	case r.Policy != nil:
		return fmt.Errorf("device id %q is not free: it is enrolled; %s", id, advice)
	case r.Enrolment != nil:
		return fmt.Errorf("device id %q is not free: an enrolment is left over; `kubectl fleet remove %[1]s` frees the id", id)
	case exists:
		return fmt.Errorf("device id %q is not free: there is a Device of that name in the cluster; `kubectl fleet remove %[1]s` frees the id", id)
	}
	return nil
}

// raced says what it means that somebody else wrote first.
func raced(err error) error {
	if errors.Is(err, policy.ErrChanged) {
		return fmt.Errorf("nothing is printed, because a command of somebody else's came in between: ask who it was, or run this again: %w", err)
	}
	return err
}

// issue makes the ticket of a device whose policy is written.
func (r *Registry) issue(ctx context.Context, q Request, p policy.Policy) (Ticket, error) {
	if q.Login.byToken() {
		if r.Entities == nil {
			return Ticket{Policy: p}, nil
		}
		if err := r.Entities.PutEntity(ctx, q.Device, q.Login.Mount, q.Login.Name); err != nil {
			return Ticket{}, fmt.Errorf("%w; then run `kubectl fleet re-enroll %s`", err, q.Device)
		}
		return Ticket{Policy: p}, nil
	}
	token := policy.NewToken(q.Device)
	enrolment := token.Enrolment(r.Now().Add(q.ValidFor))
	if err := r.Store.PutEnrolment(ctx, q.Device, enrolment); err != nil {
		return Ticket{}, raced(err)
	}
	return Ticket{Token: token, Expires: enrolment.Expires, Policy: p}, nil
}

// Renew lets a device that is enrolled join anew: its old key counts no more, and
// who has it is cut off.
func (r *Registry) Renew(ctx context.Context, q Request) (Ticket, error) {
	records, err := r.Store.Records(ctx, q.Device)
	if err != nil {
		return Ticket{}, err
	}
	if records.Policy == nil {
		return Ticket{}, fmt.Errorf("device %q is not enrolled: use `kubectl fleet enroll %[1]s`", q.Device)
	}
	revocation, err := r.shut(ctx, q.Device, records, "re-enrolled, waits for its new key")
	if err != nil {
		return Ticket{}, err
	}
	p := renewed(*records.Policy, q.Policy)
	// The token before the policy: a callout that has read the policy as it was
	// cannot write it, and one that reads it anew finds no token.
	if err := r.Store.DropEnrolment(ctx, q.Device); err != nil {
		return Ticket{}, err
	}
	if err := r.Store.PutPolicy(ctx, q.Device, p, records.Version); err != nil {
		return Ticket{}, raced(err)
	}
	if r.Entities != nil {
		if err := r.Entities.ClearEntity(ctx, q.Device); err != nil {
			return Ticket{}, err
		}
	}
	if err := r.untilCut(ctx, q.Device, revocation); err != nil {
		return Ticket{}, err
	}
	if err := r.open(ctx, q.Device, revocation); err != nil {
		return Ticket{}, err
	}
	return r.issue(ctx, q, p)
}

// renewed is the policy with what was asked for instead of what it has, and
// without a key.
func renewed(has, asked policy.Policy) policy.Policy {
	has.NKey = ""
	if asked.Labels != nil {
		has.Labels = asked.Labels
	}
	if asked.Sources != nil {
		has.Sources = asked.Sources
	}
	return has
}

// shut revokes a device unless it is, and returns the revocation.
func (r *Registry) shut(ctx context.Context, id wire.DeviceID, records policy.Records, reason string) (policy.Revocation, error) {
	if records.Revocation != nil {
		return *records.Revocation, nil
	}
	revocation := policy.Revocation{Reason: reason, By: r.Store.Who(ctx), At: r.at(), Passing: true}
	return revocation, raced(r.Store.PutRevocation(ctx, id, revocation, records.RevocationVersion))
}

// at is the time as every store can keep it.
func (r *Registry) at() time.Time { return r.Now().UTC().Truncate(time.Microsecond) }

// untilCut waits until whoever was let in before the revocation is cut off
// everywhere. One that says not when it was counts as new.
func (r *Registry) untilCut(ctx context.Context, id wire.DeviceID, revocation policy.Revocation) error {
	left := r.Store.RevokedWithin()
	if past := r.Now().Sub(revocation.At); !revocation.At.IsZero() && past > 0 {
		left -= past
	}
	if left <= 0 {
		return nil
	}
	r.Tell(fmt.Sprintf("cutting off whoever uses the id %s now ...", id))
	if err := r.Wait(ctx, left); err != nil {
		return fmt.Errorf("interrupted: device %q stays revoked, run this again: %w", id, err)
	}
	return nil
}

// open ends that revocation, and no other.
func (r *Registry) open(ctx context.Context, id wire.DeviceID, revocation policy.Revocation) error {
	records, err := r.Store.Records(ctx, id)
	if err != nil {
		return err
	}
	if records.Revocation != nil && *records.Revocation != revocation {
		return fmt.Errorf("device %q stays revoked, because somebody revoked it meanwhile: %s", id, records.Revocation)
	}
	return r.Store.DropRevocation(ctx, id)
}
