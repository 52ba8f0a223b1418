package crds_test

import (
	"slices"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/nationtech/harmony-fleet/apis/crds"
)

// TestEverythingIsBounded walks each schema: a list, a map or a string without a
// bound lets one object fill the store, and keeps CEL rules from being costed.
func TestEverythingIsBounded(t *testing.T) {
	for _, definition := range crds.All() {
		for _, version := range definition.Spec.Versions {
			for _, part := range []string{"spec", "status"} {
				schema := version.Schema.OpenAPIV3Schema.Properties[part]
				walk(t, definition.Spec.Names.Kind+"."+part, schema)
			}
		}
	}
}

func walk(t *testing.T, path string, schema apiextensionsv1.JSONSchemaProps) {
	if schema.Description == "" && schema.Type != "" && path[len(path)-1] != ']' {
		t.Errorf("%s has no description", path)
	}
	switch schema.Type {
	case "string":
		if schema.MaxLength == nil && len(schema.Enum) == 0 && schema.Format != "date-time" {
			t.Errorf("%s is a string without a bound", path)
		}
	case "array":
		if schema.MaxItems == nil {
			t.Errorf("%s is a list without a bound", path)
		}
		walk(t, path+"[]", *schema.Items.Schema)
	case "object":
		if schema.AdditionalProperties != nil {
			if schema.MaxProperties == nil {
				t.Errorf("%s is a map without a bound", path)
			}
			walk(t, path+"[]", *schema.AdditionalProperties.Schema)
		}
		for name, property := range schema.Properties {
			walk(t, path+"."+name, property)
		}
	}
}

func TestShapeThatUsersSee(t *testing.T) {
	deployments, devices, policies := crds.Deployments(), crds.Devices(), crds.DevicePolicies()
	if deployments.Spec.Scope != apiextensionsv1.NamespaceScoped || devices.Spec.Scope != apiextensionsv1.ClusterScoped || policies.Spec.Scope != apiextensionsv1.ClusterScoped {
		t.Error("Deployment is namespaced, Device and DevicePolicy are cluster-scoped")
	}
	var columns []string
	for _, c := range deployments.Spec.Versions[0].AdditionalPrinterColumns {
		if c.Priority == 0 {
			columns = append(columns, c.Name)
		}
	}
	if want := []string{"Matched", "Succeeded", "Failed", "Pending", "Ready", "Age"}; !slices.Equal(columns, want) {
		t.Errorf("columns are %v, want %v", columns, want)
	}
	for definition, short := range map[*apiextensionsv1.CustomResourceDefinition]string{deployments: "fdep", devices: "fdev", policies: "fpol"} {
		names := definition.Spec.Names
		if !slices.Equal(names.ShortNames, []string{short}) || !slices.Equal(names.Categories, []string{"fleet"}) {
			t.Errorf("%s has short names %v and categories %v", names.Kind, names.ShortNames, names.Categories)
		}
		if definition.Spec.Versions[0].Subresources.Status == nil {
			t.Errorf("%s has no status subresource", names.Kind)
		}
		if len(crds.SchemaHash(definition)) != 16 {
			t.Errorf("%s carries no schema hash", names.Kind)
		}
	}
}
