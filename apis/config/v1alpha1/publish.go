package v1alpha1

import (
	"errors"
	"fmt"
)

// PublishSection says what the operator tells in a ConfigMap for whoever enrols
// devices: its public keys, and how devices reach the broker.
type PublishSection struct {
	// ConfigMap is its name, in leaderElection.namespace; without it nothing is told.
	ConfigMap string `json:"configMap,omitempty"`
	// NATSURL is where devices reach the broker; "" when they cannot be told.
	NATSURL string `json:"natsURL,omitempty"`
	// CAFile holds the certificates that devices are to trust there instead of their
	// system's; "" when they need none.
	CAFile string `json:"caFile,omitempty"`
}

// Keys of that ConfigMap.
const (
	PublishedTrustedKeys = "trustedKeys" // one in each line
	PublishedNATSURL     = "natsURL"
	PublishedCA          = "ca.crt" // in PEM
	PublishedVersion     = "operatorVersion"
	// PublishedPolicies is where the policies of devices are kept, one of these, or
	// nothing where there are none.
	PublishedPolicies = "policies"
	PoliciesInCluster = "cluster"
	PoliciesInOpenBao = "openbao"
)

// PublishedName is what the ConfigMap is called where people look for it unless
// they say otherwise.
const PublishedName = "fleet-public"

// Validate reports what is wrong with the section.
func (p PublishSection) Validate() error {
	if p.ConfigMap == "" {
		if p != (PublishSection{}) {
			return fmt.Errorf("configMap: missing, such as %q", PublishedName)
		}
		return nil
	}
	if p.NATSURL == "" {
		return nil
	}
	section := NATSSection{URLs: []string{p.NATSURL}}
	if err := errors.Join(section.Validate(), section.Encrypted()); err != nil {
		return fmt.Errorf("natsURL: %w", err)
	}
	return nil
}
