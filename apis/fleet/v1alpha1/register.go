package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Group is the API group of the fleet's resources.
const Group = "fleet.nationtech.io"

// GroupVersion is the API group and version of this package.
var GroupVersion = schema.GroupVersion{Group: Group, Version: "v1alpha1"}

// AddToScheme registers the package's types with a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &Deployment{}, &DeploymentList{}, &Device{}, &DeviceList{}, &DevicePolicy{}, &DevicePolicyList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
