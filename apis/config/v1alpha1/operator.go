package v1alpha1

import (
	"errors"
	"fmt"
	"time"
)

// OperatorConfig is the operator's configuration file, in YAML.
type OperatorConfig struct {
	// NATS says how to reach the broker, Credentials as whom.
	NATS        NATSSection `json:"nats"`
	Credentials Credentials `json:"credentials"`
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
	return OperatorConfig{
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
	if err := c.Credentials.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("credentials: %w", err))
	}
	if c.LeaderElection.Enabled && c.LeaderElection.Namespace == "" {
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
