package kubectl

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
)

func TestDeployment(t *testing.T) {
	base := func(change func(*request)) request {
		r := request{Namespace: "shop", Name: "web", Selector: "group=a", Image: "registry.example/web:1"}
		change(&r)
		return r
	}
	service := score.Service{Name: "web", Image: "registry.example/web:1"}
	group := map[string]string{"group": "a"}
	cases := map[string]struct {
		reason   string
		request  request
		selector metav1.LabelSelector
		service  score.Service
	}{
		"Labels": {
			reason:   "a plain selector needs no expressions",
			request:  base(func(*request) {}),
			selector: metav1.LabelSelector{MatchLabels: group},
			service:  service,
		},
		"Expressions": {
			reason:  "every operator of kubectl's selectors has a form in matchExpressions",
			request: base(func(r *request) { r.Selector = "group in (b,a),!canary,site,zone notin (x),rack!=1" }),
			selector: metav1.LabelSelector{MatchLabels: map[string]string{}, MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "canary", Operator: metav1.LabelSelectorOpDoesNotExist, Values: []string{}},
				{Key: "group", Operator: metav1.LabelSelectorOpIn, Values: []string{"a", "b"}},
				{Key: "rack", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"1"}},
				{Key: "site", Operator: metav1.LabelSelectorOpExists, Values: []string{}},
				{Key: "zone", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"x"}},
			}},
			service: service,
		},
		"Devices": {
			reason:  "named devices are one expression, and narrow a selector further",
			request: base(func(r *request) { r.Devices = []string{"pi-4", "pi-42"} }),
			selector: metav1.LabelSelector{MatchLabels: group, MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: v1alpha1.LabelDeviceID, Operator: metav1.LabelSelectorOpIn, Values: []string{"pi-4", "pi-42"}},
			}},
			service: service,
		},
		"PortsAndEnv": {
			reason: "an environment value may hold '=' and be empty",
			request: base(func(r *request) {
				r.Ports = []string{"80:8080", "53:5353/udp", "81:81/TCP"}
				r.Env = []string{"A=b=c", "EMPTY="}
			}),
			selector: metav1.LabelSelector{MatchLabels: group},
			service: score.Service{
				Name: "web", Image: "registry.example/web:1",
				Ports: []score.Port{{HostPort: 80, ContainerPort: 8080}, {HostPort: 53, ContainerPort: 5353, Protocol: score.UDP}, {HostPort: 81, ContainerPort: 81}},
				Env:   []score.EnvVar{{Name: "A", Value: "b=c"}, {Name: "EMPTY"}},
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := tc.request.deployment()
			if err != nil {
				t.Fatalf("%s: %v", tc.reason, err)
			}
			if diff := cmp.Diff(tc.selector, got.Spec.TargetSelector); diff != "" {
				t.Errorf("%s: selector (-want +got):\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff([]score.Service{tc.service}, got.Spec.Score.PodmanV0.Services); diff != "" {
				t.Errorf("%s: services (-want +got):\n%s", tc.reason, diff)
			}
			requested, err := labels.Parse(tc.request.Selector)
			if err != nil {
				t.Fatal(err)
			}
			made, err := metav1.LabelSelectorAsSelector(&got.Spec.TargetSelector)
			if err != nil {
				t.Fatal(err)
			}
			for _, set := range []labels.Set{{"group": "a"}, {"group": "b", "site": "1"}, {"group": "a", "site": "1", "rack": "1"}, {"canary": ""}} {
				if len(tc.request.Devices) == 0 && made.Matches(set) != requested.Matches(set) {
					t.Errorf("%s: %v matches %v, but %q matches %v", tc.reason, set, made.Matches(set), requested, requested.Matches(set))
				}
			}
		})
	}
}

func TestDeploymentRefusesMistakes(t *testing.T) {
	cases := map[string]struct {
		reason  string
		request request
		want    []string
	}{
		"Nothing": {"every missing part is named at once", request{Name: "web"}, []string{"--target-device or --selector", "device-id", "--image"}},
		"Name":    {"the name is a token of subjects", request{Name: "a.b", Selector: "a=b", Image: "i"}, []string{`"a.b"`, "DNS label"}},
		"Device":  {"a wildcard would match more than was said", request{Name: "web", Devices: []string{"*"}, Image: "i"}, []string{"--target-device", `"*"`}},
		"Syntax":  {"kubectl's parser says where", request{Name: "web", Selector: "a in b", Image: "i"}, []string{"--selector", "a in b"}},
		"Greater": {"label selectors of resources have no comparison", request{Name: "web", Selector: "a>1", Image: "i"}, []string{"--selector"}},
		"Twice":   {"the last of two values must not win silently", request{Name: "web", Selector: "a=1,a=2", Image: "i"}, []string{"two values", "a in"}},
		"Ports": {"every wrong port is named", request{Name: "web", Selector: "a=1", Image: "i", Ports: []string{"80", "x:1", "1:70000", "1:1/sctp"}},
			[]string{`--port "80"`, `--port "x:1"`, `--port "1:70000"`, `--port "1:1/sctp"`, "HOST:CONTAINER"}},
		"PortTwice": {"a device has each port once", request{Name: "web", Selector: "a=1", Image: "i", Ports: []string{"80:1", "80:2"}}, []string{"host port 80/TCP"}},
		"Env":       {"a variable needs a name and a value", request{Name: "web", Selector: "a=1", Image: "i", Env: []string{"A"}}, []string{`--env "A"`}},
		"EnvName":   {"the score's own rules hold", request{Name: "web", Selector: "a=1", Image: "i", Env: []string{"1A=b"}}, []string{`"1A"`}},
		"Image":     {"an image with a space is none", request{Name: "web", Selector: "a=1", Image: "a b"}, []string{"image"}},
		"Large":     {"1 MiB of environment never reaches a device", request{Name: "web", Selector: "a=1", Image: "i", Env: []string{"A=" + strings.Repeat("x", 1<<20)}}, []string{"too large"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.request.Namespace = "default"
			_, err := tc.request.deployment()
			if err == nil {
				t.Fatalf("%s: no error", tc.reason)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %q is missing in: %v", tc.reason, want, err)
				}
			}
		})
	}
}
