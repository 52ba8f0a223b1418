package roster

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
)

// decision is what is decided of a device: a policy, or that there certainly is
// none that could be used.
type decision struct {
	policy policy.Policy
	err    error
}

// decide reads what is decided; o is nil where there is nothing.
func decide(o *v1alpha1.DevicePolicy) decision {
	r, err := records(o)
	switch {
	case r.Revocation != nil:
		return decision{err: policy.ErrRevoked}
	case err != nil:
		return decision{err: err}
	case r.Policy == nil:
		return decision{err: policy.ErrNone}
	}
	return decision{policy: *r.Policy}
}

// records reads all that is decided, but for the versions. It fails with
// policy.ErrMalformed, and tells all the same whether the device is revoked.
func records(o *v1alpha1.DevicePolicy) (r policy.Records, err error) {
	if o == nil {
		return r, nil
	}
	if revocation := o.Spec.Revocation; revocation != nil {
		r.Revocation = &policy.Revocation{Reason: revocation.Reason, By: revocation.By, Passing: revocation.Passing}
		if revocation.At != nil {
			r.Revocation.At = revocation.At.UTC()
		}
	}
	key := counting(o)
	if e := o.Spec.Enrolment; e != nil && key == "" { // else the token was used
		r.Enrolment = &policy.Enrolment{Digest: e.SHA256, Expires: e.Expires.UTC()}
	}
	if o.Spec.Allow == nil {
		return r, nil
	}
	p := policy.Policy{Sources: o.Spec.Allow.Sources, NKey: key}
	for label, values := range o.Spec.Allow.Labels {
		if p.Labels == nil {
			p.Labels = map[string][]string{}
		}
		p.Labels[label] = values
	}
	if _, err := p.Encode(); err != nil {
		return r, fmt.Errorf("device %q: %w", o.Name, err)
	}
	r.Policy = &p
	return r, nil
}

// counting is the key of the device; "" when none counts: the one in the status
// came by another token than the spec has now.
func counting(o *v1alpha1.DevicePolicy) string {
	if o.Spec.Enrolment == nil || o.Spec.Enrolment.SHA256 != o.Status.Enrolment {
		return ""
	}
	return o.Status.NKey
}

// allowance is a policy as the spec has it.
func allowance(p policy.Policy) *v1alpha1.DeviceAllowance {
	allow := &v1alpha1.DeviceAllowance{Sources: p.Sources}
	for label, values := range p.Labels {
		if allow.Labels == nil {
			allow.Labels = map[string]v1alpha1.LabelValues{}
		}
		allow.Labels[label] = values
	}
	return allow
}

// revocation as the spec has it.
func revocation(r policy.Revocation) *v1alpha1.DeviceRevocation {
	out := &v1alpha1.DeviceRevocation{Reason: r.Reason, By: r.By, Passing: r.Passing}
	if !r.At.IsZero() {
		out.At = &metav1.MicroTime{Time: r.At}
	}
	return out
}

// The versions that a person names are of what they speak of alone: a command
// writes one after the other, and none of its own writes may come in between.

// policyVersion is "" where there is nothing. It differs for the next device that
// has the id.
func policyVersion(o *v1alpha1.DevicePolicy) string {
	if o == nil {
		return ""
	}
	return digest(o.UID, o.Spec.Allow, counting(o))
}

func revocationVersion(o *v1alpha1.DevicePolicy) string {
	if o == nil {
		return ""
	}
	return digest(o.UID, o.Spec.Revocation)
}

func digest(parts ...any) string {
	data, err := json.Marshal(parts)
	if err != nil {
		panic(fmt.Sprintf("encoding plain values: %v", err)) // texts, maps and times
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
