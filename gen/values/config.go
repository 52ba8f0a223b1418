package values

import (
	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// LogLevel of a program.
// +kubebuilder:validation:Enum=debug;info;warn;error
type LogLevel string

// OperatorConfig is config.OperatorConfig but for what the installation decides:
// addresses, credentials, files of keys, ports and the Lease.
type OperatorConfig struct {
	// OpenBao with the policies that say which labels a device may claim; without an address the cluster has them.
	OpenBao config.OpenBaoSection `json:"openbao"`
	// Policies that the cluster has, as DevicePolicies.
	Roster config.RosterSection `json:"roster"`
	// How desired state is signed.
	Signing Signing `json:"signing"`
	// What status costs the API server.
	Status config.StatusBudget `json:"status"`
	// How long a deleted Deployment waits for its keys to be removed before it says so in an event; it goes on trying.
	DeleteTimeout config.Duration `json:"deleteTimeout"`
	// Time between two audits, which recount and compare with the broker's store.
	AuditInterval config.Duration `json:"auditInterval"`
	// debug, info, warn or error.
	LogLevel LogLevel `json:"logLevel"`
}

// Signing is config.Signing without the files.
type Signing struct {
	// How long at most a device that comes back may take over what was signed before.
	Validity config.Duration `json:"validity"`
}

// CalloutConfig is config.CalloutConfig but for what the installation decides.
type CalloutConfig struct {
	// The OpenID provider whose tokens count; without an issuer devices log in by keys of their own alone.
	OIDC config.OIDCSection `json:"oidc"`
	// OpenBao with the policies of devices; without an address the cluster has them.
	OpenBao config.OpenBaoSection `json:"openbao"`
	// Policies that the cluster has, as DevicePolicies.
	Roster config.RosterSection `json:"roster"`
	// Bound of a connection: it ends then, or with the token, and the device connects anew.
	SessionMax config.Duration `json:"sessionMax"`
	// How many decide at the same time; further requests wait.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Workers int `json:"workers"`
	// debug, info, warn or error.
	LogLevel LogLevel `json:"logLevel"`
}
