package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/score"
)

// Deployment runs a set of containers on every device whose labels match.
//
// Its full name is deployments.fleet.nationtech.io: `kubectl get deployment`
// alone means the one of apps/v1.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=fdep,categories=fleet
// +kubebuilder:printcolumn:name="Matched",type=integer,JSONPath=`.status.aggregate.matchedDeviceCount`,description="devices that the selector matches"
// +kubebuilder:printcolumn:name="Succeeded",type=integer,JSONPath=`.status.aggregate.succeeded`,description="devices that run this version"
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.aggregate.failed`,description="devices on which it failed"
// +kubebuilder:printcolumn:name="Pending",type=integer,JSONPath=`.status.aggregate.pending`,description="devices that have yet to follow"
// +kubebuilder:printcolumn:name="Unreachable",type=integer,priority=1,JSONPath=`.status.aggregate.unreachable`,description="matched devices without a recent heartbeat"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",message="metadata.name must be a DNS label: at most 63 characters and no dots"
type Deployment struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. The name is a DNS label of at most 63
	// characters: it is a token of message subjects.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the user wants.
	Spec DeploymentSpec `json:"spec"`
	// status is what the operator saw.
	// +optional
	Status DeploymentStatus `json:"status,omitempty"`
}

// DeploymentSpec says what shall run and where.
type DeploymentSpec struct {
	// targetSelector chooses devices by their labels. An empty selector is
	// refused; to choose every device write
	// matchExpressions: [{key: device-id, operator: Exists}].
	// +kubebuilder:validation:XValidation:rule="(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",message="targetSelector is empty and would match nothing; to choose every device write matchExpressions: [{key: device-id, operator: Exists}]"
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist'])",message="operator must be In, NotIn, Exists or DoesNotExist"
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, (e.operator in ['In', 'NotIn']) == (has(e.values) && size(e.values) > 0))",message="In and NotIn need values, Exists and DoesNotExist take none"
	TargetSelector metav1.LabelSelector `json:"targetSelector"`

	// score is the workload, in exactly one of its forms.
	Score score.Score `json:"score"`

	// paused holds new writes back: devices keep what they have, and the status
	// goes on being reported. Deletion is carried out all the same.
	// +optional
	Paused bool `json:"paused,omitempty"`
}

// DeploymentStatus is what the operator saw.
type DeploymentStatus struct {
	// observedGeneration is the metadata.generation that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// aggregate counts the matched devices by what they reported.
	// +optional
	Aggregate Aggregate `json:"aggregate,omitempty"`
	// conditions are Ready, Reconciling and Stalled, as kstatus reads them.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`
}

// Aggregate counts devices. matchedDeviceCount is always the sum of succeeded,
// failed and pending; unreachable is a view across all three.
type Aggregate struct {
	// matchedDeviceCount is the number of devices that the selector matches.
	// +kubebuilder:validation:Minimum=0
	MatchedDeviceCount int32 `json:"matchedDeviceCount"`
	// succeeded counts devices that run this very version.
	// +kubebuilder:validation:Minimum=0
	Succeeded int32 `json:"succeeded"`
	// failed counts devices that tried this very version and could not.
	// +kubebuilder:validation:Minimum=0
	Failed int32 `json:"failed"`
	// pending counts devices that have not reported on this version yet.
	// +kubebuilder:validation:Minimum=0
	Pending int32 `json:"pending"`
	// unreachable counts matched devices without a recent heartbeat, whatever
	// they reported last.
	// +kubebuilder:validation:Minimum=0
	Unreachable int32 `json:"unreachable"`
	// lastError is the newest error among the devices that count as failed.
	// +optional
	LastError *LastError `json:"lastError,omitempty"`
}

// LastError is one device's own account of a failure.
type LastError struct {
	// device that reported the error.
	// +kubebuilder:validation:MaxLength=63
	Device string `json:"device"`
	// reason is a CamelCase word for programs.
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason"`
	// message is the cause in the words of the part that failed, cut at 1024
	// characters.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
	// time at which the report reached the fleet's broker.
	Time metav1.Time `json:"time"`
}

// DeploymentList is a list of Deployments.
//
// +kubebuilder:object:root=true
type DeploymentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Deployment `json:"items"`
}
