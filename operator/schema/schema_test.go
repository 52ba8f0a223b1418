package schema

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/crds/fingerprint"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// cluster is a reader of definitions by name.
type cluster struct {
	client.Reader
	definitions map[string]*apiextensionsv1.CustomResourceDefinition
	err         error
}

func (c *cluster) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if c.err != nil {
		return c.err
	}
	found := c.definitions[key.Name]
	if found == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "customresourcedefinitions"}, key.Name)
	}
	found.DeepCopyInto(into.(*apiextensionsv1.CustomResourceDefinition))
	return nil
}

// matching is a cluster with the definitions of this release, established.
func matching() *cluster {
	c := &cluster{definitions: map[string]*apiextensionsv1.CustomResourceDefinition{}}
	for _, d := range crds.All() {
		d.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
		c.definitions[d.Name] = d
	}
	return c
}

// change gives the definition another schema.
func change(d *apiextensionsv1.CustomResourceDefinition) {
	d.Spec.Versions[0].Schema.OpenAPIV3Schema.Description += " Or so."
}

// release makes the definition that of a release with another schema.
func release(d *apiextensionsv1.CustomResourceDefinition, version string) {
	change(d)
	hash, err := fingerprint.Of(d.Spec)
	if err != nil {
		panic(err) // it was read from JSON
	}
	d.Annotations[v1alpha1.AnnotationSchemaHash], d.Annotations[v1alpha1.AnnotationVersion] = hash, version
}

func TestCheck(t *testing.T) {
	older := crds.Devices()
	release(older, "v0.0.1")
	devices := older.Name
	cases := map[string]struct {
		reason string
		change func(*cluster)
		want   []string // in the error; none for no error
	}{
		"matching": {"the cases differ from this one", func(*cluster) {}, nil},
		"missing":  {"nobody installed it", func(c *cluster) { delete(c.definitions, devices) }, []string{devices, "missing", "install"}},
		"both missing": {"one look tells of everything", func(c *cluster) { clear(c.definitions) },
			[]string{devices, crds.Deployments().Name}},
		"another release": {"both hashes help to find out whose it is", func(c *cluster) {
			release(c.definitions[devices], "v0.0.1")
		}, []string{devices, crds.SchemaHash(older), crds.SchemaHash(crds.Devices()), "one release"}},
		"a later release": {"an upgrade brings definitions first", func(c *cluster) { release(c.definitions[devices], "v99.0.0") }, nil},
		"no release": {"somebody made it at home", func(c *cluster) { release(c.definitions[devices], "") },
			[]string{devices, crds.SchemaHash(older), "one release"}},
		"changed": {"an edit leaves the annotations alone", func(c *cluster) { change(c.definitions[devices]) },
			[]string{devices, "has been changed", crds.SchemaHash(crds.Devices())}},
		"a later release, changed": {"that is no release", func(c *cluster) {
			release(c.definitions[devices], "v99.0.0")
			change(c.definitions[devices])
		}, []string{devices, "has been changed"}},
		"no hash":         {"somebody else's definition", func(c *cluster) { c.definitions[devices].Annotations = nil }, []string{devices, `""`}},
		"not established": {"it was installed just now", func(c *cluster) { c.definitions[devices].Status.Conditions = nil }, []string{devices, "not established"}},
		"not served": {"a much later release has left the version", func(c *cluster) {
			c.definitions[devices].Spec.Versions[0].Served = false
			release(c.definitions[devices], "v99.0.0")
		}, []string{devices, "v1alpha1"}},
		"unreadable": {"that is no proof of a match", func(c *cluster) { c.err = errors.New("refused") }, []string{devices, "refused"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			found := matching()
			c.change(found)
			err := Check(t.Context(), found)
			if (err == nil) != (c.want == nil) {
				t.Fatalf("got error %v, want %q in it", err, c.want)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want %q in it", err, want)
				}
			}
		})
	}
}

// TestGate is closed until the definitions match, tells why, and says it once.
func TestGate(t *testing.T) {
	lines := 0
	found := matching()
	delete(found.definitions, crds.Devices().Name)
	g := New(found, funcr.New(func(_, _ string) { lines++ }, funcr.Options{}))
	for range 3 {
		g.report(Check(t.Context(), found))
	}
	if err := g.Ready(nil); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("readiness is %v, want what is missing", err)
	}
	if lines != 1 {
		t.Errorf("the same problem is logged %d times, want once", lines)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if g.Wait(ctx) {
		t.Error("the gate is open")
	}
	g = New(matching(), g.log)
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Ready(nil); err != nil || !g.Wait(t.Context()) {
		t.Errorf("the gate is closed: %v", err)
	}
}
