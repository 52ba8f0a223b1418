package fleet

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/score"
)

func testResource() *v1alpha1.Deployment {
	return &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-web", Generation: 3},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"env": "prod"}},
			Score: score.Score{PodmanV0: &score.PodmanV0{Services: []score.Service{
				{Name: "web", Image: "example.com/web:1"},
			}}},
		},
	}
}

func TestDeploymentFrom(t *testing.T) {
	cases := map[string]struct {
		reason  string
		change  func(*v1alpha1.Deployment)
		invalid string // part of it; "" for none
	}{
		"Valid":   {reason: "a good resource is read whole", change: func(*v1alpha1.Deployment) {}},
		"Paused":  {reason: "paused is no error", change: func(d *v1alpha1.Deployment) { d.Spec.Paused = true }},
		"NoScore": {reason: "a score without a member cannot run", change: func(d *v1alpha1.Deployment) { d.Spec.Score = score.Score{} }, invalid: "spec.score: score: exactly one member"},
		"BadImage": {reason: "the score is validated, though the API server did so", invalid: "services[0].image",
			change: func(d *v1alpha1.Deployment) { d.Spec.Score.PodmanV0.Services[0].Image = "-" }},
		"TooLarge": {reason: "what does not fit into a message is refused", invalid: "too large",
			change: func(d *v1alpha1.Deployment) {
				for _, name := range []string{"A", "B"} {
					svc := &d.Spec.Score.PodmanV0.Services[0]
					svc.Env = append(svc.Env, score.EnvVar{Name: name, Value: strings.Repeat("x", score.MaxBytes/2)})
				}
			}},
		"Dotted": {reason: "a dot in the name would be another subject", invalid: "metadata.name: deployment name",
			change: func(d *v1alpha1.Deployment) { d.Name = "a.b" }},
		"EmptySelector": {reason: "an empty selector matches nothing, and says how to choose all", invalid: "device-id, operator: Exists",
			change: func(d *v1alpha1.Deployment) { d.Spec.TargetSelector = metav1.LabelSelector{} }},
		"BadSelector": {reason: "an operator that Kubernetes does not know", invalid: "spec.targetSelector: reading selector",
			change: func(d *v1alpha1.Deployment) {
				d.Spec.TargetSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Gt"}}
			}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cr := testResource()
			tc.change(cr)
			d := DeploymentFrom(cr)
			if (d.Invalid == "") != (tc.invalid == "") || !strings.Contains(d.Invalid, tc.invalid) {
				t.Errorf("%s: invalid %q, want %q", tc.reason, d.Invalid, tc.invalid)
			}
			if valid := d.Invalid == ""; valid != (score.DigestOf(d.Score) == d.Digest) {
				t.Errorf("%s: digest %q of %q", tc.reason, d.Digest, d.Score)
			}
			if d.UID != "uid-web" || d.Generation != 3 || d.Paused != cr.Spec.Paused || d.Deleting {
				t.Errorf("%s: got %+v", tc.reason, d)
			}
		})
	}
	cr := testResource()
	cr.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	if !DeploymentFrom(cr).Deleting {
		t.Error("a resource with a deletionTimestamp is being deleted")
	}
}
