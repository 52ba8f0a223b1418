// Package score holds the workload descriptions that a Deployment carries: what
// shall run on a device, in the terms of the runtime that runs it. The same
// types are a field of the Deployment resource and the payload of the
// desired-state bucket, so what a user wrote is what an agent reads.
//
// The package imports the standard library alone: an agent that decodes a score
// carries nothing of Kubernetes. It never talks to a runtime and never decides
// where a workload runs.
//
// +kubebuilder:object:generate=true
package score
