package callout

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func userKey(t *testing.T) string {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	key, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestRedeem: who may have a key written into the policy, by all that can be found
// in the store, also what a replica left that died between its two writes.
func TestRedeem(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	own, other, token := userKey(t), userKey(t), policy.NewToken("pi-1")
	pending, late, elsewhere := token.Enrolment(now.Add(time.Hour)), token.Enrolment(now), policy.NewToken("pi-1").Enrolment(now.Add(time.Hour))
	for reason, c := range map[string]struct {
		records policy.Records
		known   bool
		denied  string
	}{
		"it comes first":                     {policy.Records{Policy: &policy.Policy{}, Enrolment: &pending}, false, ""},
		"its answer was lost":                {policy.Records{Policy: &policy.Policy{NKey: own}}, true, ""},
		"the replica died before it spent":   {policy.Records{Policy: &policy.Policy{NKey: own}, Enrolment: &pending}, true, ""},
		"a thief brings what was not spent":  {policy.Records{Policy: &policy.Policy{NKey: other}, Enrolment: &pending}, false, "was used, with another key"},
		"a thief brings what was spent":      {policy.Records{Policy: &policy.Policy{NKey: other}}, false, "was used, with another key"},
		"the token was withdrawn":            {policy.Records{Policy: &policy.Policy{}}, false, "used or withdrawn"},
		"another token was given out since":  {policy.Records{Policy: &policy.Policy{}, Enrolment: &elsewhere}, false, "not a token of enrolment that was given out"},
		"it comes too late":                  {policy.Records{Policy: &policy.Policy{}, Enrolment: &late}, false, "expired at 2026-11-25T12:00:00Z"},
		"the device is revoked":              {policy.Records{Policy: &policy.Policy{}, Enrolment: &pending, Revocation: &policy.Revocation{}}, false, "is revoked"},
		"the device is revoked, and known":   {policy.Records{Policy: &policy.Policy{NKey: own}, Revocation: &policy.Revocation{}}, false, "is revoked"},
		"the device is removed":              {policy.Records{Enrolment: &pending}, false, "there is no policy"},
		"it comes from another network":      {policy.Records{Policy: &policy.Policy{Sources: []string{"192.0.2.0/24"}}, Enrolment: &pending}, false, "outside of the networks"},
		"it comes from a network of its own": {policy.Records{Policy: &policy.Policy{Sources: []string{"198.51.100.0/24"}}, Enrolment: &pending}, false, ""},
	} {
		known, err := redeem(c.records, bearer{token: token, key: own, address: "198.51.100.7"}, now)
		if known != c.known || (err == nil) != (c.denied == "") || err != nil && (!errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), c.denied)) {
			t.Errorf("%s: got %v, %v, want %v, %q", reason, known, err, c.known, c.denied)
		}
	}
}

// remembered is a store that read the policy before the device joined.
type remembered struct {
	Enrolments
	old, now policy.Policy
}

func (r remembered) Policy(context.Context, wire.DeviceID) (policy.Policy, error) { return r.old, nil }
func (r remembered) Recent(context.Context, wire.DeviceID) (policy.Policy, error) { return r.now, nil }

// TestKeyOfOneWhoHasJustJoined: a replica that remembers the policy without the key
// looks again before it refuses.
func TestKeyOfOneWhoHasJustJoined(t *testing.T) {
	own, other := userKey(t), userKey(t)
	store := remembered{now: policy.Policy{NKey: own}}
	j := &judge{policies: store, enrolments: store}
	for key, want := range map[string]error{own: nil, other: ErrDenied, "": nil} {
		if err := j.consult(t.Context(), proven{Identity: Identity{Device: "pi-1"}, nkey: key}, "192.0.2.1"); !errors.Is(err, want) {
			t.Errorf("with the key %q: got %v, want %v", key, err, want)
		}
	}
}
