package kustomize_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nationtech/harmony-fleet/apis/crds"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/gen/install"
	"github.com/nationtech/harmony-fleet/gen/kustomize"
	"github.com/nationtech/harmony-fleet/smoke/kube"
)

// TestDowngradesAreRefused takes each field out of each definition: the API server
// refuses it and names the field, unless a person says that it may.
func TestDowngradesAreRefused(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	api, err := client.New(kube.Shared(t).Config(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	built := install.Build(install.Defaults(), kustomize.Release())
	for _, object := range append(built[install.CRDsFile], built[install.DowngradesFile]...) {
		plain, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, api, &unstructured.Unstructured{Object: plain})
	}
	update := func(name string, change func(*apiextensionsv1.CustomResourceDefinition)) error {
		t.Helper()
		d := &apiextensionsv1.CustomResourceDefinition{}
		if err := api.Get(t.Context(), client.ObjectKey{Name: name}, d); err != nil {
			t.Fatal(err)
		}
		change(d)
		return api.Update(t.Context(), d, client.DryRunAll)
	}
	tried := 0
	for _, d := range crds.All() {
		for _, path := range paths(root(d), "") {
			without := func(d *apiextensionsv1.CustomResourceDefinition) {
				loosen(root(d))
				remove(root(d), strings.Split(path, "."))
			}
			want := fmt.Sprintf("would be lost: %s. Keep", path)
			// A policy is known to the API server a moment after it was made.
			deadline := time.Now().Add(patience)
			for err = update(d.Name, without); err == nil && tried == 0 && time.Now().Before(deadline); err = update(d.Name, without) {
				time.Sleep(100 * time.Millisecond)
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s without %s: got %v, want an error with %q", d.Name, path, err, want)
			}
			tried++
		}
	}
	if tried < 100 {
		t.Errorf("only %d fields were tried", tried)
	}
	spec := func(d *apiextensionsv1.CustomResourceDefinition) {
		loosen(root(d))
		remove(root(d), []string{"spec", "paused"})
		remove(root(d), []string{"spec", "score"})
	}
	name := crds.Deployments().Name
	// The API server has the fields of a schema in no order.
	err = update(name, spec)
	if err == nil || !strings.Contains(err.Error(), "lost: spec.paused, spec.score. Keep") && !strings.Contains(err.Error(), "lost: spec.score, spec.paused. Keep") {
		t.Errorf("without two fields: %v", err)
	}
	for what, change := range map[string]func(*apiextensionsv1.CustomResourceDefinition){
		"with another field": func(d *apiextensionsv1.CustomResourceDefinition) {
			root(d).Properties["more"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
		},
		"with the word of a person": func(d *apiextensionsv1.CustomResourceDefinition) {
			spec(d)
			d.Annotations[v1alpha1.AnnotationAllowDowngrade] = "true"
		},
		"without any annotation": func(d *apiextensionsv1.CustomResourceDefinition) { d.Annotations = nil },
	} {
		if err := update(name, change); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := update(name, func(d *apiextensionsv1.CustomResourceDefinition) { spec(d); d.Annotations = nil }); !apierrors.IsInvalid(err) {
		t.Errorf("without two fields and any annotation: %v", err)
	}
}

func root(d *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.JSONSchemaProps {
	return d.Spec.Versions[0].Schema.OpenAPIV3Schema
}

// element is the schema that has the fields.
func element(schema *apiextensionsv1.JSONSchemaProps) *apiextensionsv1.JSONSchemaProps {
	switch {
	case schema.Items != nil:
		return schema.Items.Schema
	case schema.AdditionalProperties != nil:
		return schema.AdditionalProperties.Schema
	}
	return schema
}

// paths are those of all fields.
func paths(schema *apiextensionsv1.JSONSchemaProps, before string) (all []string) {
	for name, field := range element(schema).Properties {
		all = append(append(all, before+name), paths(&field, before+name+".")...)
	}
	return all
}

// remove takes a field out.
func remove(schema *apiextensionsv1.JSONSchemaProps, path []string) {
	schema = element(schema)
	if len(path) == 1 {
		delete(schema.Properties, path[0])
		return
	}
	field := schema.Properties[path[0]]
	remove(&field, path[1:])
	schema.Properties[path[0]] = field
}

// loosen takes out what names fields, which would not be valid without them.
func loosen(schema *apiextensionsv1.JSONSchemaProps) {
	schema.XValidations, schema.XListMapKeys, schema.XListType = nil, nil, nil
	inner := element(schema)
	inner.XValidations = nil
	for name, field := range inner.Properties {
		loosen(&field)
		inner.Properties[name] = field
	}
}
