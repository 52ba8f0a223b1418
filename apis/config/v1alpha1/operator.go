package v1alpha1

import (
	"errors"
	"fmt"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

// OperatorConfig is the operator's configuration file, in YAML.
type OperatorConfig struct {
	// NATS says how to reach the broker, Credentials as whom.
	NATS        NATSSection `json:"nats"`
	Credentials Credentials `json:"credentials"`
	// Signing is how desired state is signed.
	Signing Signing `json:"signing"`
	// OpenBao has the policies that say which labels a device may claim; without an
	// address the cluster has them, as Roster says, and without both a device may
	// claim any.
	OpenBao OpenBaoSection `json:"openbao"`
	Roster  RosterSection  `json:"roster"`
	// Publish has the operator tell what devices are to be told when they join.
	Publish PublishSection `json:"publish"`
	// LeaderElection lets one of several replicas work at a time.
	LeaderElection LeaderElection `json:"leaderElection"`
	// Status bounds what the status costs the API server.
	Status StatusBudget `json:"status"`
	// DeleteTimeout is how long a deleted Deployment waits for its keys to be
	// removed before it says so in an event; it goes on trying.
	DeleteTimeout Duration `json:"deleteTimeout"`
	// AuditInterval is the time between two audits: a recount of the
	// aggregates and a comparison of desired state with the broker's store.
	AuditInterval Duration `json:"auditInterval"`
	// MetricsAddress and ProbeAddress to listen on; "0" switches one off.
	MetricsAddress string `json:"metricsAddress"`
	ProbeAddress   string `json:"probeAddress"`
	// ProfileAddress to serve runtime profiles at, below /debug/pprof; "" for
	// nowhere. A profile tells much about a fleet: keep it on loopback.
	ProfileAddress string `json:"profileAddress,omitempty"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `json:"logLevel"`
}

// Signing is how desired state is signed, so that devices need not trust the
// broker.
type Signing struct {
	// KeyFiles hold the seeds of operator nkeys ("SO…"), one in each. All of them
	// sign: to replace a key, put the new one beside it, and take the old one away
	// when every device that matters has been online since.
	KeyFiles []string `json:"keyFiles"`
	// Validity is how long at most a device that comes back may take over what
	// was signed before, and half of it at least: then it is signed anew. What a
	// device has taken over goes on for ever.
	Validity Duration `json:"validity"`
}

// Validate reports what is wrong with the section.
func (s Signing) Validate() error {
	if len(s.KeyFiles) == 0 || len(s.KeyFiles) > wire.MaxSigners {
		return fmt.Errorf("keyFiles: names %d files, want 1 to %d with the seed of an operator nkey in each", len(s.KeyFiles), wire.MaxSigners)
	}
	if s.Validity < Duration(minValidity) {
		return fmt.Errorf("validity: must be at least %s", minValidity)
	}
	return nil
}

// minValidity is far above the time in which renewals are noticed.
const minValidity = 24 * time.Hour

// LeaderElection is the Lease that the working replica holds.
type LeaderElection struct {
	Enabled   bool   `json:"enabled"`
	Namespace string `json:"namespace"`
}

// StatusBudget bounds status patches. Each Deployment is patched at most once a
// second, and only when its status moved.
type StatusBudget struct {
	// PatchesPerSecond over all Deployments and Devices.
	PatchesPerSecond int `json:"patchesPerSecond"`
}

// OperatorDefaults is what holds where the file is silent.
func OperatorDefaults() OperatorConfig {
	policies := OpenBaoDefaults()
	policies.LoginRole = "fleet-operator"
	return OperatorConfig{
		OpenBao:        policies,
		Roster:         RosterDefaults(),
		Signing:        Signing{Validity: Duration(30 * 24 * time.Hour)},
		LeaderElection: LeaderElection{Enabled: true, Namespace: "fleet-system"},
		Status:         StatusBudget{PatchesPerSecond: 200},
		DeleteTimeout:  Duration(time.Minute),
		AuditInterval:  Duration(5 * time.Minute),
		MetricsAddress: ":8080",
		ProbeAddress:   ":8081",
		LogLevel:       "info",
	}
}

// Validate reports everything that is wrong, each error naming the field.
func (c OperatorConfig) Validate() error {
	var errs []error
	if err := c.NATS.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("nats: %w", err))
	}
	if err := c.Credentials.validateInCluster(); err != nil {
		errs = append(errs, fmt.Errorf("credentials: %w", err))
	}
	if err := c.Signing.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("signing: %w", err))
	}
	if err := validPolicies(c.OpenBao, c.Roster); err != nil {
		errs = append(errs, err)
	}
	if err := c.Publish.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("publish: %w", err))
	}
	if (c.LeaderElection.Enabled || c.Publish.ConfigMap != "") && c.LeaderElection.Namespace == "" {
		errs = append(errs, errors.New("leaderElection.namespace: must not be empty"))
	}
	if c.Status.PatchesPerSecond < 1 {
		errs = append(errs, errors.New("status.patchesPerSecond: must be at least 1"))
	}
	if c.DeleteTimeout <= 0 || c.AuditInterval <= 0 {
		errs = append(errs, errors.New("deleteTimeout and auditInterval: must be positive"))
	}
	if err := validLogLevel(c.LogLevel); err != nil {
		errs = append(errs, fmt.Errorf("logLevel: %w", err))
	}
	return errors.Join(errs...)
}
