package kubectl

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// installed are all definitions, of that version.
func installed(version string) []*apiextensionsv1.CustomResourceDefinition {
	all := crds.All()
	for _, d := range all {
		d.Annotations[v1alpha1.AnnotationVersion] = version
	}
	return all
}

func TestCompare(t *testing.T) {
	changed := installed("v2")
	changed[1].Annotations[v1alpha1.AnnotationSchemaHash] = "other"
	delete(changed[2].Annotations, v1alpha1.AnnotationVersion)
	cases := map[string]struct {
		reason string
		found  parts
		want   []part
	}{
		"all is one": {
			reason: "nothing to look into is said of nothing",
			found:  parts{operator: "v2", definitions: installed("v2"), agents: map[string]int{"v2": 7}},
			want: []part{
				{Component: "kubectl-fleet", Version: "v2"}, {Component: "fleet-operator", Version: "v2"},
				{Component: "definition deployments", Version: "v2"}, {Component: "definition devices", Version: "v2"},
				{Component: "definition devicepolicies", Version: "v2"}, {Component: "fleet-agent", Version: "v2", Devices: 7},
			},
		},
		"an older operator": {
			reason: "the operator decides what a step is, also for this program",
			found:  parts{operator: "v1", definitions: installed("v1"), agents: map[string]int{"v2": 1, "v1": 2, "": 3}},
			want: []part{
				{Component: "kubectl-fleet", Version: "v2", Note: "out of step with v1"}, {Component: "fleet-operator", Version: "v1"},
				{Component: "definition deployments", Version: "v1"}, {Component: "definition devices", Version: "v1"},
				{Component: "definition devicepolicies", Version: "v1"},
				{Component: "fleet-agent", Version: "<unknown>", Devices: 3, Note: "not told yet"},
				{Component: "fleet-agent", Version: "v1", Devices: 2},
				{Component: "fleet-agent", Version: "v2", Devices: 1, Note: "out of step with v1"},
			},
		},
		"nobody tells": {
			reason: "an operator that is not there is said, and the rest is held against this program",
			want: []part{
				{Component: "kubectl-fleet", Version: "v2"},
				{Component: "fleet-operator", Version: "<unknown>", Note: "it publishes nothing there: publish.configMap of its configuration, or --fleet-namespace"},
				{Component: "definition deployments", Version: "<none>", Note: "not installed"},
				{Component: "definition devices", Version: "<none>", Note: "not installed"},
				{Component: "definition devicepolicies", Version: "<none>", Note: "not installed"},
			},
		},
		"changed by hand": {
			reason: "a schema that is not the version's is no step, whatever it says; an old definition says nothing",
			found:  parts{operator: "v2", definitions: changed},
			want: []part{
				{Component: "kubectl-fleet", Version: "v2"}, {Component: "fleet-operator", Version: "v2"},
				{Component: "definition deployments", Version: "v2"},
				{Component: "definition devices", Version: "v2", Note: "its schema is not the one of that version: somebody has changed it"},
				{Component: "definition devicepolicies", Version: "<unknown>", Note: "out of step with v2"},
			},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, compare("v2", c.found)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.reason, diff)
			}
		})
	}
}
