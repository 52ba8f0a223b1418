package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DevicePolicy is what is decided of one device, where the cluster keeps the
// policies of devices: that it may connect, which labels it may claim, and by
// which token it joins. People write the spec, as `kubectl fleet enroll` does;
// fleet-callout writes the status, which has the key of the device, and may write
// nothing else. Deleting it cuts the device off.
//
// A key counts for the token by which it came, and a token is good for one key:
// whoever replaces the token in the spec has the device join anew, and the API
// server refuses a second key for the same token.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=devicepolicies,shortName=fpol,categories=fleet
// +kubebuilder:printcolumn:name="Revoked",type=string,JSONPath=`.spec.revocation.at`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.spec.revocation.reason`
// +kubebuilder:printcolumn:name="Key",type=string,priority=1,JSONPath=`.status.nkey`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",message="metadata.name is the device id and must be a DNS label: at most 63 characters and no dots"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.spec) || !has(oldSelf.spec.enrolment) || !has(oldSelf.status) || !has(oldSelf.status.enrolment) || oldSelf.spec.enrolment.sha256 != oldSelf.status.enrolment || !has(self.spec) || !has(self.spec.enrolment) || self.spec.enrolment.sha256 != oldSelf.spec.enrolment.sha256 || (has(self.status) && self.status == oldSelf.status)",message="the token of enrolment was used: it lets no other key in; use kubectl fleet re-enroll"
type DevicePolicy struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object metadata. The name is the device id.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what people decided.
	// +optional
	Spec DevicePolicySpec `json:"spec,omitempty"`
	// status is how the device joined.
	// +optional
	Status DevicePolicyStatus `json:"status,omitempty"`
}

// DevicePolicySpec is what people decided of a device.
type DevicePolicySpec struct {
	// allow is what the device may do; without it nobody is let in by this id.
	// +optional
	Allow *DeviceAllowance `json:"allow,omitempty"`
	// enrolment is the token by which the device joins or has joined; without it
	// no key counts.
	// +optional
	Enrolment *DeviceEnrolment `json:"enrolment,omitempty"`
	// revocation keeps the device out and cuts it off, whatever is in it.
	// +optional
	Revocation *DeviceRevocation `json:"revocation,omitempty"`
}

// DeviceAllowance is what a device may do once it is let in.
type DeviceAllowance struct {
	// labels that the device may claim, each with the values that it may have;
	// "*" alone for any.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Labels map[string]LabelValues `json:"labels,omitempty"`
	// sources are the networks that the device may connect from, such as
	// "192.0.2.0/24"; none means from anywhere.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=64
	Sources []string `json:"sources,omitempty"`
}

// LabelValues are the values that a label may have.
//
// +kubebuilder:validation:MinItems=1
// +kubebuilder:validation:MaxItems=64
// +kubebuilder:validation:items:MaxLength=512
type LabelValues []string

// DeviceEnrolment is what is kept of a token of enrolment.
type DeviceEnrolment struct {
	// sha256 of the token, in hexadecimal.
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	SHA256 string `json:"sha256"`
	// expires is until when a device may use the token.
	Expires metav1.Time `json:"expires"`
}

// DeviceRevocation says why a device is revoked, for people to read.
type DeviceRevocation struct {
	// reason that the person gave.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`
	// by is the person, as the API server names them.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	By string `json:"by,omitempty"`
	// at is when that was.
	// +optional
	At *metav1.MicroTime `json:"at,omitempty"`
	// passing says that it is a step of something else, which ends it: the device
	// is being given another key, or removed.
	// +optional
	Passing bool `json:"passing,omitempty"`
}

// DevicePolicyStatus is how the device joined.
type DevicePolicyStatus struct {
	// nkey is the public key of the device ("U…").
	// +optional
	// +kubebuilder:validation:MaxLength=56
	// +kubebuilder:validation:Pattern=`^U[A-Z2-7]{55}$`
	NKey string `json:"nkey,omitempty"`
	// enrolment is the sha256 of the token by which that key came. The key counts
	// while spec.enrolment has the same.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Enrolment string `json:"enrolment,omitempty"`
}

// DevicePolicyList is a list of DevicePolicies.
//
// +kubebuilder:object:root=true
type DevicePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DevicePolicy `json:"items"`
}
