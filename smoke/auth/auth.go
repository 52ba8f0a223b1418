// Package auth runs what fleet-callout asks, an OpenID provider and a server with
// OpenBao's API, and makes what a device needs to log in there: a machine user
// with a key, and a policy. It starts no fleet-callout and no broker itself, and
// it never decides who may connect.
package auth

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"sigs.k8s.io/yaml"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
	"github.com/nationtech/harmony-fleet/smoke/openbao"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// Options of an Auth; Dir and Callout are needed.
type Options struct {
	// Dir holds configuration files, keys of devices and OpenBao's data.
	Dir string
	// Callout is the broker's part of the callout's configuration.
	Callout config.CalloutConfig
	// TokenLifetime of the provider's tokens, in whole seconds; 0 means 12 hours.
	TokenLifetime time.Duration
	// Progress hears about OpenBao being built the first time; nil means standard
	// error.
	Progress io.Writer
}

// Auth is a provider and an OpenBao that run.
type Auth struct {
	Provider *oidc.Provider
	Bao      *openbao.Fleet
	// Callout is the configuration of every replica, but for its addresses.
	Callout config.CalloutConfig
	dir     string
}

// Start runs both. Cancelling ctx ends the start, not what has started.
func Start(ctx context.Context, o Options) (_ *Auth, err error) {
	a := &Auth{Callout: o.Callout, dir: o.Dir}
	defer func() {
		if err != nil {
			a.Stop()
			err = fmt.Errorf("starting provider and OpenBao: %w", err)
		}
	}()
	if a.Provider, err = oidc.Start(ctx, oidc.Options{TokenLifetime: o.TokenLifetime}); err != nil {
		return nil, err
	}
	a.Callout.OIDC.Issuer, a.Callout.OIDC.Audience = a.Provider.Issuer(), a.Provider.ProjectID()
	server, err := openbao.Start(ctx, openbao.Options{Dir: filepath.Join(o.Dir, "openbao"), Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	if a.Bao, err = server.Fleet(ctx); err != nil {
		server.Stop()
		return nil, err
	}
	a.Callout.OpenBao, err = a.Bao.Program(ctx, a.Callout.OpenBao.LoginRole, o.Dir)
	return a, err
}

// Stop stops both. The folder stays.
func (a *Auth) Stop() {
	if a.Bao != nil {
		a.Bao.Stop()
	}
	if a.Provider != nil {
		a.Provider.Stop()
	}
}

// Replica writes the configuration file of one fleet-callout, and tells the
// address at which that will say whether it is ready.
func (a *Auth) Replica(name string) (file, readyURL string, err error) {
	return Replica(a.Callout, a.dir, name)
}

// Replica does that for any configuration, in the folder: one that neither asks a
// provider nor OpenBao needs no Auth.
func Replica(c config.CalloutConfig, dir, name string) (file, readyURL string, err error) {
	probes, err := process.FreePort()
	if err != nil {
		return "", "", err
	}
	c.MetricsAddress, c.ProbeAddress = "0", "127.0.0.1:"+strconv.Itoa(probes)
	content, err := yaml.Marshal(c)
	if err != nil {
		return "", "", fmt.Errorf("encoding the configuration of %s: %w", name, err)
	}
	file = filepath.Join(dir, name+".yaml")
	return file, "http://" + c.ProbeAddress + "/readyz", write(file, content)
}

// Machine makes the machine user of a device and returns the credentials with
// which its agent logs in. Without a policy the callout refuses it.
func (a *Auth) Machine(id wire.DeviceID) (config.Credentials, error) {
	c := config.Credentials{
		Type: config.CredentialZitadelJWT, Issuer: a.Provider.Issuer(), Audience: a.Provider.ProjectID(),
		KeyFile: filepath.Join(a.dir, string(id)+".key.json"),
	}
	machine, err := a.Provider.AddMachine(oidc.Machine{
		Name: a.Callout.OIDC.DevicePrefix + string(id), Roles: []string{"device"}, RoleClaims: oidc.ProjectRoleMap,
	})
	if err != nil {
		return c, err
	}
	return c, write(c.KeyFile, machine.KeyJSON)
}

// Enrol makes a machine user and a policy.
func (a *Auth) Enrol(ctx context.Context, id wire.DeviceID, p policy.Policy) (config.Credentials, error) {
	c, err := a.Machine(id)
	if err != nil {
		return c, err
	}
	return c, a.Bao.PutPolicy(ctx, id, p)
}

func write(path string, content []byte) error {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
