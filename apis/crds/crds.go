// Package crds holds the fleet's CustomResourceDefinitions, generated from
// apis/fleet/v1alpha1 and embedded, so that the operator knows the very schema
// it was built with. All files beside this one are generated.
package crds

import (
	"embed"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/nationtech/harmony-fleet/apis/crds/fingerprint"
	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

//go:embed *.yaml
var files embed.FS

// Deployments is the definition of Deployment, a fresh copy at each call.
func Deployments() *apiextensionsv1.CustomResourceDefinition { return load("deployments") }

// Devices is the definition of Device, a fresh copy at each call.
func Devices() *apiextensionsv1.CustomResourceDefinition { return load("devices") }

// DevicePolicies is the definition of DevicePolicy, a fresh copy at each call.
func DevicePolicies() *apiextensionsv1.CustomResourceDefinition { return load("devicepolicies") }

// All returns every definition.
func All() []*apiextensionsv1.CustomResourceDefinition {
	return []*apiextensionsv1.CustomResourceDefinition{Deployments(), Devices(), DevicePolicies()}
}

// SchemaHash is the hash of the schema that the definition was generated with;
// "" when it carries none.
func SchemaHash(definition *apiextensionsv1.CustomResourceDefinition) string {
	return definition.Annotations[v1alpha1.AnnotationSchemaHash]
}

// Intact says that the definition, as it is embedded or in a cluster, has the schema
// that it was generated with: nobody has changed it.
func Intact(definition *apiextensionsv1.CustomResourceDefinition) bool {
	hash, err := fingerprint.Of(definition.Spec)
	return err == nil && hash == SchemaHash(definition)
}

// load panics on a broken file: it is part of the binary, and a test loads it.
func load(plural string) *apiextensionsv1.CustomResourceDefinition {
	name := plural + "." + v1alpha1.Group + ".yaml"
	data, err := files.ReadFile(name)
	if err != nil {
		panic(fmt.Sprintf("embedded definition %s: %v", name, err))
	}
	definition := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(data, definition); err != nil {
		panic(fmt.Sprintf("embedded definition %s: %v", name, err))
	}
	return definition
}
