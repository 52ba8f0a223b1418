package v1alpha1

import (
	"errors"
	"fmt"
	"time"
)

// SecretsSection says where a device reads the secrets that its Deployments name:
// in OpenBao, in an engine of the type KV version 2.
type SecretsSection struct {
	// Address of OpenBao, such as "https://openbao.example.com:8200"; "" means that
	// this device runs no Deployment with secrets.
	Address string `toml:"address"`
	// CAFile holds the certificates to trust there instead of the system's.
	CAFile string `toml:"ca_file"`
	// Mount of the engine.
	Mount string `toml:"mount"`
	// LoginMount is where the method "jwt" is mounted, by which the device logs in
	// with the role LoginRole and the token of its credentials, which must be of a
	// type that has tokens.
	LoginMount string `toml:"login_mount"`
	LoginRole  string `toml:"login_role"`
	// RefreshInterval is the time between two looks at each secret, give or take a
	// tenth: so long a changed one takes to reach its containers.
	RefreshInterval Duration `toml:"refresh_interval"`
}

// minRefresh keeps a fleet from wearing OpenBao out.
const minRefresh = 10 * time.Second

// Validate reports what is wrong with the section.
func (s SecretsSection) Validate() error {
	if s.Address == "" {
		if s.CAFile != "" {
			return errors.New("address: missing; write it beside ca_file")
		}
		return nil
	}
	var errs []error
	if err := validHTTP(s.Address); err != nil {
		errs = append(errs, fmt.Errorf("address: %w", err))
	}
	for _, field := range []struct{ name, value string }{{"mount", s.Mount}, {"login_mount", s.LoginMount}, {"login_role", s.LoginRole}} {
		if field.value == "" {
			errs = append(errs, fmt.Errorf("%s: must not be empty", field.name))
		}
	}
	if s.RefreshInterval < Duration(minRefresh) {
		errs = append(errs, fmt.Errorf("refresh_interval: must be at least %s", minRefresh))
	}
	return errors.Join(errs...)
}
