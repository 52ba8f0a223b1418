package fleet

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

func TestSanitizeLabels(t *testing.T) {
	type want struct {
		labels    map[string]string
		conflicts []string
	}
	cases := map[string]struct {
		reason   string
		reported map[string]string
		want     want
	}{
		"Nothing": {
			reason: "the id is there whatever the device says",
			want:   want{labels: map[string]string{}},
		},
		"Fit": {
			reason:   "what Kubernetes allows is taken as it is",
			reported: map[string]string{"env": "prod", "acme.com/rack": "A_1.b", "Empty": ""},
			want:     want{labels: map[string]string{"env": "prod", "acme.com/rack": "A_1.b", "Empty": ""}},
		},
		"Unfit": {
			reason:   "what Kubernetes does not allow becomes '-' inside and goes at the ends",
			reported: map[string]string{"rack no.": "#4 (left)", "ACME.com/ü a": "\xff\x00x", "long": strings.Repeat("a", 62) + "-b"},
			want:     want{labels: map[string]string{"rack-no": "4--left", "acme.com/a": "x", "long": strings.Repeat("a", 62)}},
		},
		"Impersonation": {
			reason:   "a device must not attract what is meant for another",
			reported: map[string]string{"device-id": "victim", "device id": "victim"},
			want: want{labels: map[string]string{}, conflicts: []string{
				`"device id": the operator sets this label`, `"device-id": the operator sets this label`,
			}},
		},
		"Forbidden": {
			reason:   "the policy is asked about labels as they become",
			reported: map[string]string{"forbidden~": "a b", "env": "prod"},
			want: want{labels: map[string]string{"env": "prod"}, conflicts: []string{
				`"forbidden~": the device's policy does not allow the value "a-b"`,
			}},
		},
		"Reserved": {
			reason: "prefixes that mean something to Kubernetes or the fleet are not for a device to claim",
			reported: map[string]string{
				"kubernetes.io/arch": "a", "node-role.kubernetes.io/x": "a", "k8s.io/x": "a", "Fleet.NationTech.io/x": "a",
				"a.fleet.nationtech.io/x": "a", "notkubernetes.io/x": "fine",
			},
			want: want{labels: map[string]string{"notkubernetes.io/x": "fine"}, conflicts: []string{
				`"Fleet.NationTech.io/x": its prefix is reserved`, `"a.fleet.nationtech.io/x": its prefix is reserved`,
				`"k8s.io/x": its prefix is reserved`, `"kubernetes.io/arch": its prefix is reserved`,
				`"node-role.kubernetes.io/x": its prefix is reserved`,
			}},
		},
		"ExactWins": {
			reason:   "of two that become one, the one that is written so is meant",
			reported: map[string]string{"a-b": "exact", "a b": "other"},
			want: want{labels: map[string]string{"a-b": "exact"}, conflicts: []string{
				`"a b": it becomes "a-b", which is reported as well`,
			}},
		},
		"NeitherWins": {
			reason:   "without an exact one there is no way to choose",
			reported: map[string]string{"a b": "1", "a+b": "2"},
			want: want{labels: map[string]string{}, conflicts: []string{
				`"a b": it becomes "a-b", as another one does`, `"a+b": it becomes "a-b", as another one does`,
			}},
		},
		"NothingLeft": {
			reason:   "a key without any letter or digit is no key",
			reported: map[string]string{"---": "a", "/x": "a", "x/": "a", "..": "a"},
			want: want{labels: map[string]string{}, conflicts: []string{
				`"---": nothing of it can be a label key`, `"..": nothing of it can be a label key`,
				`"/x": nothing of it can be a label key`, `"x/": nothing of it can be a label key`,
			}},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			labels, conflicts := SanitizeLabels("me", tc.reported, func(key, _ string) bool { return key != "forbidden" })
			tc.want.labels["device-id"] = "me"
			if diff := cmp.Diff(tc.want, want{labels, conflicts}, cmp.AllowUnexported(want{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestSanitizeLabelsAlwaysFit: whatever is reported, the API server takes it.
func TestSanitizeLabelsAlwaysFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringN(0, 80, 512), rapid.StringMatching(`[a-z./_ -]{0,90}`))
		labels, conflicts := SanitizeLabels("me", rapid.MapOfN(text, text, 0, wire.MaxLabels).Draw(t, "reported"), func(string, string) bool { return true })
		for key, value := range labels {
			if problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(problems) > 0 {
				t.Fatalf("%q=%q: %v", key, value, problems)
			}
		}
		if len(conflicts) > maxConflicts {
			t.Fatalf("%d conflicts", len(conflicts))
		}
		for i, c := range conflicts {
			if len([]rune(c)) > maxConflictText || i > 0 && conflicts[i-1] >= c {
				t.Fatalf("conflict %d, %q, is too long, or not sorted", i, c)
			}
		}
	})
}
