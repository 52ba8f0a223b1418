package deployment

import (
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// TestChanged: the operator's own status patches must not come back as work.
func TestChanged(t *testing.T) {
	cases := map[string]struct {
		reason string
		change func(*v1alpha1.Deployment)
		want   bool
	}{
		"nothing": {"a resync", func(*v1alpha1.Deployment) {}, false},
		"status":  {"written every second under load", func(d *v1alpha1.Deployment) { d.Status.Aggregate.Failed = 1; d.ResourceVersion = "2" }, false},
		"spec":    {"", func(d *v1alpha1.Deployment) { d.Generation = 2 }, true},
		"annotation": {"it may force a deletion", func(d *v1alpha1.Deployment) {
			d.Annotations = map[string]string{v1alpha1.AnnotationForceDelete: "true"}
		}, true},
		"finalizer": {"somebody may have removed it", func(d *v1alpha1.Deployment) { d.Finalizers = nil }, true},
		"recreated": {"the watch may have missed the deletion", func(d *v1alpha1.Deployment) { d.UID = "other" }, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			before := &v1alpha1.Deployment{}
			before.UID, before.Generation, before.ResourceVersion, before.Finalizers = "uid", 1, "1", []string{v1alpha1.Finalizer}
			after := before.DeepCopy()
			c.change(after)
			if got := Changed().Update(event.TypedUpdateEvent[*v1alpha1.Deployment]{ObjectOld: before, ObjectNew: after}); got != c.want {
				t.Errorf("it is admitted: %v, want %v", got, c.want)
			}
		})
	}
}
