package v1alpha1

import (
	"fmt"
	"time"
)

// RosterSection says how policies of devices are used that the cluster itself
// keeps, as DevicePolicies.
type RosterSection struct {
	// Enabled has them used where openbao.address is empty.
	Enabled bool `json:"enabled"`
	// MaxStale is how long an outage of the API server cuts no known device off. Then
	// nobody is let in.
	MaxStale Duration `json:"maxStale"`
}

// minSilence is above the time between two signs of life of the API server where
// nothing changes, a minute.
const minSilence = 5 * time.Minute

// RosterDefaults is what holds where a file is silent.
func RosterDefaults() RosterSection { return RosterSection{MaxStale: Duration(24 * time.Hour)} }

// Validate reports what is wrong with the section.
func (r RosterSection) Validate() error {
	if r.MaxStale < Duration(minSilence) {
		return fmt.Errorf("maxStale: must be at least %s", minSilence)
	}
	return nil
}

// validPolicies checks the one of the two that is used.
func validPolicies(o OpenBaoSection, r RosterSection) error {
	if o.Address != "" {
		if err := o.Validate(); err != nil {
			return fmt.Errorf("openbao: %w", err)
		}
		return nil
	}
	if err := r.Validate(); r.Enabled && err != nil {
		return fmt.Errorf("roster: %w", err)
	}
	return nil
}
