package wire

import (
	"errors"
	"fmt"
	"strings"
)

// ErrInvalidName says that a device id, a namespace or a Deployment name is not
// a DNS label. Dots and wildcards in one would widen permissions and keys.
var ErrInvalidName = errors.New("not a DNS label (lower-case letters, digits and '-', at most 63 characters)")

// isLabel is a loop and not a regular expression because every key of every
// message passes here.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// DeviceID names one device: a DNS label, and one token of a subject.
type DeviceID string

// ParseDeviceID checks that s is a device id. It fails with ErrInvalidName.
func ParseDeviceID(s string) (DeviceID, error) {
	if !isLabel(s) {
		return "", fmt.Errorf("device id %q: %w", s, ErrInvalidName)
	}
	return DeviceID(s), nil
}

// DeploymentID names a Deployment by namespace and name, both DNS labels.
type DeploymentID struct {
	Namespace string
	Name      string
}

// ParseDeploymentID checks both parts. It fails with ErrInvalidName.
func ParseDeploymentID(namespace, name string) (DeploymentID, error) {
	if !isLabel(namespace) {
		return DeploymentID{}, fmt.Errorf("namespace %q: %w", namespace, ErrInvalidName)
	}
	if !isLabel(name) {
		return DeploymentID{}, fmt.Errorf("deployment name %q: %w", name, ErrInvalidName)
	}
	return DeploymentID{Namespace: namespace, Name: name}, nil
}

// String is "namespace/name", as Kubernetes prints it.
func (d DeploymentID) String() string { return d.Namespace + "/" + d.Name }

// Token is "namespace.name", the form that keys and manifests use.
func (d DeploymentID) Token() string { return d.Namespace + "." + d.Name }

// ParseDeploymentToken reads the "namespace.name" of a key or a manifest. It
// fails with ErrInvalidName.
func ParseDeploymentToken(token string) (DeploymentID, error) {
	namespace, name, found := strings.Cut(token, ".")
	if !found {
		return DeploymentID{}, fmt.Errorf("deployment %q: want namespace.name: %w", token, ErrInvalidName)
	}
	return ParseDeploymentID(namespace, name)
}
