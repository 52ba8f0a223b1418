package roster

import (
	"context"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authentication "k8s.io/client-go/kubernetes/typed/authentication/v1"
	"k8s.io/client-go/rest"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// revokedWithin is the time in which every program that hears the API server has
	// heard of a revocation and cut off who is revoked, with room to spare: at once,
	// or maxPause later when its watch has just ended.
	revokedWithin = 5 * time.Second
	// adminTimeout bounds one exchange of a person.
	adminTimeout = 15 * time.Second
	// tries is how often a write is begun again when another part was changed.
	tries = 10
)

// Admin changes what is kept of devices, as the person whose kubeconfig it has.
type Admin struct {
	client client
	kube   *rest.Config
}

// NewAdmin makes one.
func NewAdmin(kube *rest.Config) (*Admin, error) {
	kube = rest.CopyConfig(kube)
	kube.Timeout = adminTimeout
	c, err := newClient(kube)
	if err != nil {
		return nil, err
	}
	return &Admin{client: c, kube: kube}, nil
}

// Close ends idle connections.
func (a *Admin) Close() { a.client.close() }

// RevokedWithin is how long it takes at most until whoever is revoked is cut off.
func (a *Admin) RevokedWithin() time.Duration { return revokedWithin }

// Who is the person, as the API server names them; "" when it does not tell.
func (a *Admin) Who(ctx context.Context) string {
	c, err := authentication.NewForConfigAndClient(a.kube, a.client.http)
	if err != nil {
		return ""
	}
	review, err := c.SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return ""
	}
	return wire.CleanText(review.Status.UserInfo.Username, wire.MaxMessage)
}

// Records of a device as they are now. It fails with policy.ErrMalformed when
// they cannot be read, and tells all the same whether the device is revoked.
func (a *Admin) Records(ctx context.Context, id wire.DeviceID) (policy.Records, error) {
	o, err := a.client.get(ctx, id)
	if err != nil {
		return policy.Records{}, err
	}
	r, err := records(o)
	r.Version, r.RevocationVersion = policyVersion(o), revocationVersion(o)
	return r, err
}

// PutPolicy writes a policy, whose key is "", if its version is still that of
// Records. Whoever has joined has to join anew. It fails with policy.ErrChanged.
func (a *Admin) PutPolicy(ctx context.Context, id wire.DeviceID, p policy.Policy, version string) error {
	if _, err := p.Encode(); err != nil {
		return err
	}
	return a.change(ctx, id, func(o *v1alpha1.DevicePolicy, now *v1alpha1.DevicePolicySpec) error {
		if policyVersion(o) != version {
			return policy.ErrChanged
		}
		now.Allow, now.Enrolment = allowance(p), nil
		return nil
	})
}

// DestroyPolicy removes the policy, if there is one and its version is still that
// of Records. Nobody who has read it can write it again: the next one has another uid.
func (a *Admin) DestroyPolicy(ctx context.Context, id wire.DeviceID, version string) error {
	return a.change(ctx, id, func(o *v1alpha1.DevicePolicy, now *v1alpha1.DevicePolicySpec) error {
		if now.Allow != nil && policyVersion(o) != version {
			return policy.ErrChanged
		}
		now.Allow, now.Enrolment = nil, nil
		return nil
	})
}

// PutEnrolment keeps a token. It fails with policy.ErrChanged when there is one,
// used or not.
func (a *Admin) PutEnrolment(ctx context.Context, id wire.DeviceID, e policy.Enrolment) error {
	return a.change(ctx, id, func(_ *v1alpha1.DevicePolicy, now *v1alpha1.DevicePolicySpec) error {
		if now.Enrolment != nil {
			return policy.ErrChanged
		}
		now.Enrolment = &v1alpha1.DeviceEnrolment{SHA256: e.Digest, Expires: metav1.Time{Time: e.Expires}}
		return nil
	})
}

// DropEnrolment makes the token of a device useless. One that was used is: it
// stays, for the key that came by it counts as long.
func (a *Admin) DropEnrolment(ctx context.Context, id wire.DeviceID) error {
	return a.change(ctx, id, func(o *v1alpha1.DevicePolicy, now *v1alpha1.DevicePolicySpec) error {
		if o != nil && counting(o) == "" {
			now.Enrolment = nil
		}
		return nil
	})
}

// PutRevocation revokes a device, if the version of its revocation is still that
// of Records. It fails with policy.ErrChanged.
func (a *Admin) PutRevocation(ctx context.Context, id wire.DeviceID, r policy.Revocation, version string) error {
	return a.change(ctx, id, func(o *v1alpha1.DevicePolicy, now *v1alpha1.DevicePolicySpec) error {
		if revocationVersion(o) != version {
			return policy.ErrChanged
		}
		now.Revocation = revocation(r)
		return nil
	})
}

// DropRevocation ends the revocation of a device.
func (a *Admin) DropRevocation(ctx context.Context, id wire.DeviceID) error {
	return a.change(ctx, id, func(_ *v1alpha1.DevicePolicy, now *v1alpha1.DevicePolicySpec) error {
		now.Revocation = nil
		return nil
	})
}

// change reads what there is, nil for nothing, and writes what edit makes of its
// spec; it begins again when another part was changed meanwhile. Where nothing is
// left nothing is kept.
func (a *Admin) change(ctx context.Context, id wire.DeviceID, edit func(*v1alpha1.DevicePolicy, *v1alpha1.DevicePolicySpec) error) error {
	for range tries {
		o, err := a.client.get(ctx, id)
		if err != nil {
			return err
		}
		next := &v1alpha1.DevicePolicy{}
		if o != nil {
			next = o.DeepCopy()
		}
		next.Name = string(id)
		if err := edit(o, &next.Spec); err != nil {
			return fmt.Errorf("writing the policy of %q: %w", id, err)
		}
		if err := a.write(ctx, o, next); !errors.Is(err, policy.ErrChanged) {
			return err
		}
	}
	return fmt.Errorf("writing the policy of %q, %d times: %w", id, tries, policy.ErrChanged)
}

func (a *Admin) write(ctx context.Context, o, next *v1alpha1.DevicePolicy) error {
	empty := next.Spec == (v1alpha1.DevicePolicySpec{})
	switch {
	case o == nil && empty:
		return nil
	case o == nil:
		return a.client.create(ctx, next)
	case empty:
		return a.client.delete(ctx, o)
	}
	return a.client.put(ctx, "", next)
}
