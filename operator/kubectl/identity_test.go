package kubectl

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// TestIdentityIsAllThatIsGranted: nothing that a device may do is left out.
func TestIdentityIsAllThatIsGranted(t *testing.T) {
	r := newIdentity("pi-4", nil, nil)
	granted := wire.DevicePermissions("pi-4")
	var publish, subscribe []string
	for _, g := range r.Publish {
		publish = append(publish, g.Subject)
	}
	for _, g := range r.Subscribe {
		subscribe = append(subscribe, g.Subject)
	}
	if diff := cmp.Diff([][]string{granted.Publish, granted.Subscribe}, [][]string{publish, subscribe}); diff != "" {
		t.Errorf("(-granted +told):\n%s", diff)
	}
	var limits []int
	for _, l := range r.Limits {
		limits = append(limits, l.Value)
	}
	if diff := cmp.Diff([]int{granted.Responses, granted.MaxSubscriptions, granted.MaxPayload}, limits); diff != "" {
		t.Errorf("(-limits +told):\n%s", diff)
	}
}

func TestIdentitySummary(t *testing.T) {
	known := device("pi-4", "True")
	known.Labels = map[string]string{"device-id": "pi-4"}
	revoked := policy.Revocation{At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), By: "ana", Reason: "stolen"}
	for name, tc := range map[string]struct {
		found   *v1alpha1.Device
		records *policy.Records
		want    string
	}{
		"it is not known what is decided": {&known, nil, `Device pi-4
In the cluster: reachable True for 5m, labels device-id=pi-4
It may, as device in the account DEVICES:

`},
		"enrolled, never connected": {nil, &policy.Records{Policy: &policy.Policy{Labels: map[string][]string{"b": {"*"}, "a": {"1", "2"}}}}, `Device pi-4
Login: by a token of the provider
Labels that it may claim: a=1|2, b=*
Networks: any
In the cluster: no Device; it has not connected yet, or was deleted
It may, as device in the account DEVICES:

`},
		"connected before there were policies": {&known, &policy.Records{}, `Device pi-4
Login: refused, it is not enrolled: there is no policy of it
In the cluster: reachable True for 5m, labels device-id=pi-4
It may do nothing; let in, it may, as device in the account DEVICES:

`},
		"revoked, and nobody said why": {nil, &policy.Records{Revocation: &policy.Revocation{}}, `Device pi-4
Login: refused, it is revoked
In the cluster: no Device; it has not connected yet, or was deleted
It may do nothing; let in, it may, as device in the account DEVICES:

`},
		"revoked": {nil, &policy.Records{Policy: &policy.Policy{}, Revocation: &revoked}, `Device pi-4
Login: refused, it is revoked: since 2026-01-02T03:04:05Z, by ana, reason "stolen"
Labels that it may claim: none
Networks: any
In the cluster: no Device; it has not connected yet, or was deleted
It may do nothing; let in, it may, as device in the account DEVICES:

`},
	} {
		var out strings.Builder
		newIdentity("pi-4", tc.found, tc.records).printSummary(&out, now)
		if diff := cmp.Diff(tc.want, out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
