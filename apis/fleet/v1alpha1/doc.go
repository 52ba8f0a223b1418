// Package v1alpha1 holds the Kubernetes resources of the group
// fleet.nationtech.io: Deployment, which says what shall run on which devices,
// Device, which stands for one machine, and DevicePolicy, which lets it in. The
// comments of the fields are what `kubectl explain` shows. The package holds
// types, names and their text conversions; it decides nothing and talks to nothing.
//
// +kubebuilder:object:generate=true
// +groupName=fleet.nationtech.io
package v1alpha1
