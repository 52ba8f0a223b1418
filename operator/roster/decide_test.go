package roster

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	key   = "UBUUX6PETB2DPTXVTQLDLBZLT5G2C67HWC456RLPH6RIQTS5G3PMCTIK"
	other = "UDA7ORMNYRZC2RMTZ77LLD23PIM5LQBZT66U3MI2OC2QZZVQUZRZA5HX"
)

// named is the policy of a device that joined by the token that it names.
func named(id string) *v1alpha1.DevicePolicy {
	used := strings.Repeat("ab", 32)
	return &v1alpha1.DevicePolicy{
		ObjectMeta: metav1.ObjectMeta{Name: id, UID: "1"},
		Spec: v1alpha1.DevicePolicySpec{
			Allow:     &v1alpha1.DeviceAllowance{Labels: map[string]v1alpha1.LabelValues{"site": {"berlin"}}, Sources: []string{"192.0.2.0/24"}},
			Enrolment: &v1alpha1.DeviceEnrolment{SHA256: used, Expires: metav1.Time{Time: time.Unix(1000, 0)}},
		},
		Status: v1alpha1.DevicePolicyStatus{NKey: key, Enrolment: used},
	}
}

func changed(change func(*v1alpha1.DevicePolicy)) *v1alpha1.DevicePolicy {
	o := named("pi-1")
	change(o)
	return o
}

// TestDecide: a key counts for its token alone, and a revocation comes first.
func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		o       *v1alpha1.DevicePolicy
		key     string
		pending bool // has a token to use
		err     error
	}{
		"joined":          {named("pi-1"), key, false, nil},
		"none":            {nil, "", false, policy.ErrNone},
		"not enrolled":    {changed(func(o *v1alpha1.DevicePolicy) { o.Spec.Allow = nil }), "", false, policy.ErrNone},
		"about to join":   {changed(func(o *v1alpha1.DevicePolicy) { o.Status = v1alpha1.DevicePolicyStatus{} }), "", true, nil},
		"re-enrolled":     {changed(func(o *v1alpha1.DevicePolicy) { o.Spec.Enrolment.SHA256 = strings.Repeat("cd", 32) }), "", true, nil},
		"without a token": {changed(func(o *v1alpha1.DevicePolicy) { o.Spec.Enrolment = nil }), "", false, nil},
		"without both": {changed(func(o *v1alpha1.DevicePolicy) {
			o.Spec.Enrolment, o.Status.Enrolment = nil, ""
		}), "", false, nil},
		"revoked":    {changed(func(o *v1alpha1.DevicePolicy) { o.Spec.Revocation = &v1alpha1.DeviceRevocation{} }), key, false, policy.ErrRevoked},
		"no network": {changed(func(o *v1alpha1.DevicePolicy) { o.Spec.Allow.Sources = []string{"berlin"} }), "", false, policy.ErrMalformed},
		"no key":     {changed(func(o *v1alpha1.DevicePolicy) { o.Status.NKey = "U" }), "", false, policy.ErrMalformed},
		"revoked and malformed": {changed(func(o *v1alpha1.DevicePolicy) {
			o.Status.NKey, o.Spec.Revocation = "U", &v1alpha1.DeviceRevocation{}
		}), "", false, policy.ErrRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(c.o)
			if !errors.Is(d.err, c.err) || c.err == nil && (d.policy.NKey != c.key || !d.policy.Allows("site", "berlin") || d.policy.From("198.51.100.1")) {
				t.Errorf("decided %+v", d)
			}
			r, _ := records(c.o)
			if (r.Enrolment != nil) != c.pending || r.Policy != nil && r.Policy.NKey != c.key {
				t.Errorf("the records are %+v, %+v", r, r.Policy)
			}
		})
	}
}

// TestVersions: a version is of what it speaks of alone, and of that object.
func TestVersions(t *testing.T) {
	begin := named("pi-1")
	for name, c := range map[string]struct {
		o                  *v1alpha1.DevicePolicy
		policy, revocation bool // whether it is another version
	}{
		"nothing":       {named("pi-1"), false, false},
		"none":          {nil, true, true},
		"another":       {changed(func(o *v1alpha1.DevicePolicy) { o.UID = "2" }), true, true},
		"labels":        {changed(func(o *v1alpha1.DevicePolicy) { o.Spec.Allow.Labels["a"] = v1alpha1.LabelValues{"b"} }), true, false},
		"removed":       {changed(func(o *v1alpha1.DevicePolicy) { o.Spec.Allow = nil }), true, false},
		"joined anew":   {changed(func(o *v1alpha1.DevicePolicy) { o.Status.NKey = other }), true, false},
		"revoked":       {changed(func(o *v1alpha1.DevicePolicy) { o.Spec.Revocation = &v1alpha1.DeviceRevocation{} }), false, true},
		"an annotation": {changed(func(o *v1alpha1.DevicePolicy) { o.Annotations = map[string]string{"a": "b"} }), false, false},
	} {
		if got := policyVersion(c.o) != policyVersion(begin); got != c.policy {
			t.Errorf("%s: the policy has another version: %v", name, got)
		}
		if got := revocationVersion(c.o) != revocationVersion(begin); got != c.revocation {
			t.Errorf("%s: the revocation has another version: %v", name, got)
		}
	}
}

// TestShut: whoever may no longer be connected is cut off, and nobody else.
func TestShut(t *testing.T) {
	revoke := func(o *v1alpha1.DevicePolicy) { o.Spec.Revocation = &v1alpha1.DeviceRevocation{} }
	fresh := func(o *v1alpha1.DevicePolicy) { o.Status = v1alpha1.DevicePolicyStatus{} }
	for name, c := range map[string]struct {
		before, after *v1alpha1.DevicePolicy // nil for none
		want          bool
	}{
		"enrolled":           {nil, changed(fresh), false},
		"joins":              {changed(fresh), named("pi-1"), false},
		"labels change":      {named("pi-1"), changed(func(o *v1alpha1.DevicePolicy) { o.Spec.Allow.Labels = nil }), false},
		"revoked":            {named("pi-1"), changed(revoke), true},
		"found revoked":      {nil, changed(revoke), true},
		"stays revoked":      {changed(revoke), changed(revoke), false},
		"let in again":       {changed(revoke), changed(fresh), false},
		"deleted":            {named("pi-1"), nil, true},
		"deleted, revoked":   {changed(revoke), nil, false},
		"its key is another": {named("pi-1"), changed(func(o *v1alpha1.DevicePolicy) { o.Status.NKey = other }), true},
		"its key is void":    {named("pi-1"), changed(func(o *v1alpha1.DevicePolicy) { o.Spec.Enrolment = nil }), true},
		"becomes unreadable": {named("pi-1"), changed(func(o *v1alpha1.DevicePolicy) { o.Status.NKey = "U" }), true},
	} {
		t.Run(name, func(t *testing.T) {
			for way, tell := range map[string]func(*memory) error{
				"by a watch": func(m *memory) error {
					if c.after == nil {
						return m.Delete(c.before)
					}
					return m.Update(c.after)
				},
				"by a list": func(m *memory) error { return m.Replace(list(c.after), "2") },
			} {
				m := newMemory(time.Now)
				if err := m.Replace(list(c.before), "1"); err != nil {
					t.Fatal(err)
				}
				m.takeShut()
				if err := tell(m); err != nil {
					t.Fatal(err)
				}
				if got := slices.Equal(m.takeShut(), []wire.DeviceID{"pi-1"}); got != c.want {
					t.Errorf("%s: cut off: %v", way, got)
				}
				if c.after == nil && !errors.Is(m.get("pi-1").err, policy.ErrNone) {
					t.Errorf("%s: it is still known", way)
				}
			}
		})
	}
}

func list(o *v1alpha1.DevicePolicy) (all []any) {
	if o != nil {
		all = append(all, o)
	}
	return all
}

// TestHeard: a watch that goes on says that nothing was missed, and one that has
// told nothing yet does not.
func TestHeard(t *testing.T) {
	now := time.Unix(0, 0)
	m := newMemory(func() time.Time { return now })
	if m.goesOn(); !m.lastHeard().IsZero() {
		t.Error("it heard before it was told")
	}
	if err := m.Replace(nil, "1"); err != nil {
		t.Fatal(err)
	}
	for what, tell := range map[string]func(){
		"a watch":    m.goesOn,
		"a bookmark": func() { m.UpdateResourceVersion("2") },
		"an event":   func() { _ = m.Update(named("pi-1")) },
	} {
		now = now.Add(time.Minute)
		if tell(); !m.lastHeard().Equal(now) {
			t.Errorf("%s is not heard", what)
		}
	}
}
