package operator_test

import (
	"encoding/json"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
)

// TestDeploymentAdmission: the API server itself refuses what nobody can carry
// out, in words that say what to do.
func TestDeploymentAdmission(t *testing.T) {
	w := newWorld(t)
	namespace := w.namespace()
	const selector = `"targetSelector":{"matchLabels":{"group":"a"}}`
	const service = `{"name":"web","image":"registry.example/web:1"`
	good := func(score string) string { return `{` + selector + `,"score":` + score + `}` }
	cases := map[string]struct {
		reason, name, spec, want string // want is in the error; "" for none
	}{
		"good":                  {"the cases differ from this one", "web", good(`{"podmanV0":{"services":[` + service + `}]}}`), ""},
		"every device":          {"it must be possible to say", "web", `{"targetSelector":{"matchExpressions":[{"key":"device-id","operator":"Exists"}]},"score":{"podmanV0":{"services":[` + service + `}]}}}`, ""},
		"unknown member":        {"a typo must not mean nothing", "web", good(`{"podmanV1":{"services":[]}}`), `unknown field "spec.score.podmanV1"`},
		"no member":             {"", "web", good(`{}`), "exactly one member"},
		"two members":           {"the union has one; the API server names the field it does not know", "web", good(`{"podmanV0":{"services":[` + service + `}]},"compose":{}}`), `unknown field "spec.score.compose"`},
		"no service":            {"", "web", good(`{"podmanV0":{"services":[]}}`), "at least 1 items"},
		"service twice":         {"", "web", good(`{"podmanV0":{"services":[` + service + `},` + service + `}]}}`), "Duplicate value"},
		"port twice":            {"the second could never be published", "web", good(`{"podmanV0":{"services":[` + service + `,"ports":[{"containerPort":80,"hostPort":80},{"containerPort":81,"hostPort":80,"protocol":"TCP"}]}]}}`), "may not share hostPort"},
		"port of both kinds":    {"TCP and UDP do not meet", "web", good(`{"podmanV0":{"services":[` + service + `,"ports":[{"containerPort":80,"hostPort":80},{"containerPort":80,"hostPort":80,"protocol":"UDP"}]}]}}`), ""},
		"port out of range":     {"", "web", good(`{"podmanV0":{"services":[` + service + `,"ports":[{"containerPort":80,"hostPort":65536}]}]}}`), "less than or equal to 65535"},
		"volume of two sources": {"", "web", good(`{"podmanV0":{"services":[` + service + `,"volumes":[{"containerPath":"/d","hostPath":"/d","volume":"d"}]}]}}`), "exactly one of hostPath and volume"},
		"1 MiB of env":          {"it would not fit into a message", "web", good(`{"podmanV0":{"services":[` + service + `,"env":[{"name":"BIG","value":"` + strings.Repeat("x", 1<<20) + `"}]}]}}`), "Too long"},
		"empty selector":        {"elsewhere it means everything", "web", `{"targetSelector":{},"score":{"podmanV0":{"services":[` + service + `}]}}}`, "targetSelector is empty"},
		"missing selector":      {"", "web", `{"score":{"podmanV0":{"services":[` + service + `}]}}}`, "spec.targetSelector"},
		"operator misspelt":     {"", "web", `{"targetSelector":{"matchExpressions":[{"key":"a","operator":"in","values":["b"]}]},"score":{"podmanV0":{"services":[` + service + `}]}}}`, "operator must be In, NotIn, Exists or DoesNotExist"},
		"In without values":     {"", "web", `{"targetSelector":{"matchExpressions":[{"key":"a","operator":"In"}]},"score":{"podmanV0":{"services":[` + service + `}]}}}`, "need values"},
		"dotted name":           {"a dot would be another token of the key", "web.shop", good(`{"podmanV0":{"services":[` + service + `}]}}`), "DNS label"},
		"name of 64":            {"", strings.Repeat("a", 64), good(`{"podmanV0":{"services":[` + service + `}]}}`), "DNS label"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			object := &unstructured.Unstructured{Object: map[string]any{}}
			var spec map[string]any
			if err := json.Unmarshal([]byte(c.spec), &spec); err != nil {
				t.Fatal(err)
			}
			object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Deployment"))
			object.SetNamespace(namespace)
			object.SetName(c.name)
			object.Object["spec"] = spec
			err := w.api.Create(t.Context(), object, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
			checkRefusal(t, err, c.want)
		})
	}
}

func TestDeviceAdmission(t *testing.T) {
	w := newWorld(t)
	for name, want := range map[string]string{
		"pi-4":                    "",
		strings.Repeat("a", 63):   "",
		"pi.4":                    "DNS label",
		strings.Repeat("a", 64):   "DNS label",
		"Pi-4":                    "RFC 1123",
		"pi-*":                    "RFC 1123",
		"pi->":                    "RFC 1123",
		"pi_4":                    "RFC 1123",
		"\u0430":                  "RFC 1123", // Cyrillic
		"pi 4":                    "RFC 1123",
		strings.Repeat("a.", 100): "RFC 1123",
	} {
		t.Run(name, func(t *testing.T) {
			err := w.api.Create(t.Context(), &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name}}, client.DryRunAll)
			checkRefusal(t, err, want)
		})
	}
}

func checkRefusal(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("it is refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("it is admitted, want a refusal with %q", want)
	case want != "" && (!strings.Contains(err.Error(), want) || !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err)):
		t.Errorf("it is refused with %q, want %q in it", err, want)
	}
}

// TestInvalidSpecLosesNothing: what the schema cannot see (two services that
// publish one port) stalls the Deployment, and what ran before stays.
func TestInvalidSpecLosesNothing(t *testing.T) {
	w := newWorld(t)
	r := w.startConverged()
	d := deployment(w.namespace(), "web", "a")
	w.must(w.api.Create(t.Context(), d))
	w.announce("pi-1", map[string]string{"group": "a"})
	w.awaitDesired("pi-1", d)
	good := d.DeepCopy()

	port := []score.Port{{ContainerPort: 80, HostPort: 80}}
	w.change(d, func() {
		d.Spec.Score.PodmanV0.Services = []score.Service{
			{Name: "one", Image: "registry.example/one:1", Ports: port}, {Name: "two", Image: "registry.example/two:1", Ports: port},
		}
	})
	w.awaitStatus(d, "stalled", func(s v1alpha1.DeploymentStatus) bool {
		stalled := condition(s.Conditions, v1alpha1.ConditionStalled)
		return stalled.Status == metav1.ConditionTrue && stalled.Reason == v1alpha1.ReasonInvalidSpec &&
			strings.Contains(stalled.Message, "80/TCP") && s.ObservedGeneration == d.Generation
	})
	w.awaitEvent(d, v1alpha1.ReasonInvalidSpec, "80/TCP")
	if err := w.desired("pi-1", good); err != nil {
		t.Errorf("what ran before is not kept: %v", err)
	}

	w.change(d, func() { d.Spec.Score = scoreOf("registry.example/web:2") })
	w.awaitDesired("pi-1", d)
	w.awaitStatus(d, "not stalled", func(s v1alpha1.DeploymentStatus) bool {
		return condition(s.Conditions, v1alpha1.ConditionStalled).Status != metav1.ConditionTrue
	})
	if n := r.logs.count("acquired deployment"); n != 3 {
		t.Errorf("%d lines tell of an acquired deployment, want one for each of its 3 generations", n)
	}
}
