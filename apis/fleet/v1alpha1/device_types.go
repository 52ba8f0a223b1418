package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Device is one machine of the fleet, cluster-scoped as Node is. The operator
// creates it from what the device's agent reports; its labels are what
// Deployments select by. Deleting it takes all Deployments from the device; an
// agent that still runs there has it made anew when it connects the next time.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=fdev,categories=fleet
// +kubebuilder:printcolumn:name="Reachable",type=string,JSONPath=`.status.conditions[?(@.type=="Reachable")].status`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.status.conditions[?(@.type=="Reachable")].lastTransitionTime`
// +kubebuilder:printcolumn:name="Problem",type=string,JSONPath=`.status.conditions[?(@.type=="IdentityConflict")].reason`
// +kubebuilder:printcolumn:name="Arch",type=string,JSONPath=`.spec.inventory.architecture`
// +kubebuilder:printcolumn:name="Held",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Held")].message`
// +kubebuilder:printcolumn:name="OS",type=string,priority=1,JSONPath=`.spec.inventory.operatingSystem`
// +kubebuilder:printcolumn:name="Podman",type=string,priority=1,JSONPath=`.spec.inventory.podmanVersion`
// +kubebuilder:printcolumn:name="Agent",type=string,priority=1,JSONPath=`.spec.inventory.agentVersion`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",message="metadata.name is the device id and must be a DNS label: at most 63 characters and no dots"
type Device struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. The name is the device id.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the device is.
	// +optional
	Spec DeviceSpec `json:"spec,omitempty"`
	// status is how the device does.
	// +optional
	Status DeviceStatus `json:"status,omitempty"`
}

// DeviceSpec is what the device is.
type DeviceSpec struct {
	// inventory is a snapshot of hardware and operating system, as the agent
	// reported it.
	// +optional
	Inventory *wire.Inventory `json:"inventory,omitempty"`
}

// DeviceStatus is how the device does.
type DeviceStatus struct {
	// conditions: Reachable says whether heartbeats arrive and since when;
	// IdentityConflict is there while two agents use one id; Held is there while the
	// device changes nothing of what it runs, and until when.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`
	// labelConflicts names labels that the device reported and that could not
	// be taken as they are: they sanitise to a key that another label has, or
	// use a reserved key.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=512
	LabelConflicts []string `json:"labelConflicts,omitempty"`
}

// DeviceList is a list of Devices.
//
// +kubebuilder:object:root=true
type DeviceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Device `json:"items"`
}
