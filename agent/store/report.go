package store

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Report is what the agent last said of itself, for `fleet-agent status`, which
// reads it also while the agent is down.
type Report struct {
	Device wire.DeviceID `json:"device"`
	// Written is when the agent wrote the report.
	Written time.Time `json:"written"`
	// Generation of the desired state that the agent holds; 0 means none yet.
	Generation uint64 `json:"generation"`
	// Refused is why what the broker offers as a newer one is not taken over; ""
	// when nothing is refused.
	Refused string `json:"refused,omitempty"`
	// Twin is which other agent is live with this device id, and what to do about
	// it; "" when none is.
	Twin string `json:"twin,omitempty"`
	// Hold is why nothing is changed here now; nil when things are.
	Hold *hold.Hold `json:"hold,omitempty"`
	// Secrets is why newer versions of secrets cannot be had; "" when they can.
	Secrets string `json:"secrets,omitempty"`
	// TrustedKeys are those whose signature counts.
	TrustedKeys []string           `json:"trustedKeys"`
	Broker      BrokerReport       `json:"broker"`
	Deployments []DeploymentReport `json:"deployments"`
}

// BrokerReport is how the connection to the broker does.
type BrokerReport struct {
	Connected bool `json:"connected"`
	// Since is when Connected last changed.
	Since time.Time `json:"since"`
	// Error is why there is no connection, "" when there is one.
	Error string `json:"error,omitempty"`
}

// DeploymentReport is how one Deployment does here.
type DeploymentReport struct {
	Namespace string           `json:"namespace"`
	Name      string           `json:"name"`
	Revision  int64            `json:"revision"`
	State     wire.DeviceState `json:"state"`
	// Since is when the phase or the reason last changed.
	Since time.Time `json:"since"`
	// NextTry is when the agent tries again what failed; zero when nothing waits.
	NextTry time.Time `json:"nextTry,omitzero"`
}

// SaveReport replaces the report.
func (s *Store) SaveReport(r Report) error { return s.save(reportFile, r) }

// LoadReport reads the last report; it is zero when there is none.
func (s *Store) LoadReport() (Report, error) {
	data, err := s.read(reportFile)
	if data == nil || err != nil {
		return Report{}, err
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return Report{}, fmt.Errorf("reading %s: %w", filepath.Join(s.dir, reportFile), err)
	}
	return r, nil
}
