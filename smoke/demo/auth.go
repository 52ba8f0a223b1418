package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-logr/logr"

	"github.com/nationtech/harmony-fleet/agent/token"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/auth"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// With Options.Auth devices log in with tokens of a provider, their policies are
// in OpenBao, and fleet-callout tells the broker who they are.

const (
	// stranger has a machine user and a role like the others, and no policy.
	stranger wire.DeviceID = "device-c"
	// overreach is a label that device-b claims and its policy does not allow.
	overreach = "tier"
)

// replicas of fleet-callout, by the names of their logs.
var replicas = []string{"fleet-callout-1", "fleet-callout-2"}

// refused is a device whose login is refused, and the words in which the log of
// the callout tells why.
type refused struct {
	Why    string // as the menu says it
	Config string // of its agent
	reason string
}

// authority is what runs for the devices' logins.
type authority struct {
	*auth.Auth
	// person is the token, in OpenBao, of somebody who enrols and revokes.
	person  string
	refused []refused
}

// policyOf allows a device the labels that it has, but for one of device-b.
func policyOf(d *device) policy.Policy {
	allowed := map[string][]string{"site": {policy.AnyValue}}
	allowed["group"] = []string{d.labels["group"]}
	return policy.Policy{Labels: allowed}
}

// startAuth starts the provider, OpenBao and the replicas of fleet-callout.
func (e *environment) startAuth(ctx context.Context) error {
	a, err := auth.Start(ctx, auth.Options{Dir: e.path("auth"), Callout: e.broker.Callout(), Progress: io.Discard})
	if err != nil {
		return err
	}
	e.onStop("stopping the provider and OpenBao", func() error { a.Stop(); return nil })
	e.auth = &authority{Auth: a}
	if e.auth.person, err = a.Bao.Person(ctx); err != nil {
		return err
	}
	if err := e.writeHeader(); err != nil {
		return err
	}
	for _, name := range replicas {
		file, readyURL, err := a.Replica(name)
		if err != nil {
			return err
		}
		if err := e.run(ctx, program{
			name: "fleet-callout", log: name, args: []string{"--config", file},
			ready: func(ctx context.Context) error { return process.Answers(ctx, readyURL) },
		}); err != nil {
			return err
		}
	}
	return e.addRefused()
}

// writeHeader writes the person's token as curl takes it from a file: on its
// command line everybody could read it.
func (e *environment) writeHeader() error {
	return write(e.path("auth", "header"), []byte("X-Vault-Token: "+e.auth.person+"\n"), nil)
}

// addRefused makes devices that are refused: one without a policy, and one that
// asks for tokens for somebody else's project.
func (e *environment) addRefused() error {
	credentials, err := e.auth.Machine(stranger)
	if err != nil {
		return err
	}
	other := credentials
	other.Audience = "300000000000000001"
	for _, r := range []struct {
		refused
		credentials v1alpha1.Credentials
	}{
		{refused{Why: "nobody has given it a policy", reason: policy.ErrNone.Error(), Config: e.path(string(stranger) + ".toml")}, credentials},
		{refused{Why: "its token is for another project", reason: "audience", Config: e.path(string(stranger) + "-elsewhere.toml")}, other},
	} {
		config := e.agentDefaults(stranger)
		config.Credentials = r.credentials
		if err := writeTOML(r.Config, config); err != nil {
			return err
		}
		e.auth.refused = append(e.auth.refused, r.refused)
	}
	return nil
}

// enrol lets a device in, and puts a command beside podman-DEVICE that is `nats`
// with the device's own login: what it can do the device can do.
func (e *environment) enrol(ctx context.Context, d *device) (v1alpha1.Credentials, error) {
	credentials, err := e.auth.Enrol(ctx, d.id, policyOf(d))
	if err != nil {
		return credentials, err
	}
	text, err := token.New(token.Options{Credentials: credentials, Now: time.Now, Log: logr.Discard()}).Token(ctx)
	if err != nil {
		return credentials, fmt.Errorf("getting a token of %s: %w", d.id, err)
	}
	file := e.path("auth", string(d.id)+".token")
	if err := write(file, []byte(text), nil); err != nil {
		return credentials, err
	}
	script := fmt.Sprintf("#!/bin/sh\n# nats as the device, with its token and its permissions.\nunset NATS_USER NATS_PASSWORD\nNATS_TOKEN=$(cat '%s')\nexport NATS_TOKEN\nexec nats --inbox-prefix '%s' \"$@\"\n",
		file, wire.InboxPrefix(d.id))
	if err := os.WriteFile(e.path("bin", "nats-"+string(d.id)), []byte(script), 0o700); err != nil {
		return credentials, fmt.Errorf("writing nats-%s: %w", d.id, err)
	}
	return credentials, nil
}

// breakout is what device-a tries with its own login to get at device-b.
type breakout struct{ What, command string }

// breakouts are commands of the menu; the regression runs the very same.
func breakouts() []breakout {
	const me, them = "device-a", "device-b"
	state := wire.DeviceStates.Subject(wire.DeploymentKey(them, wire.DeploymentID{Namespace: "default", Name: name}))
	return []breakout{
		{"listen to what it is to run", "sub --wait 1s '" + wire.DesiredHint(wire.DeviceKey(them)) + "'"},
		{"listen to what it says", "sub --wait 1s '" + wire.DeviceStates.Subjects() + "'"},
		{"read its manifest", "req --timeout 1s '" + wire.DesiredState.DirectGet(wire.DeviceKey(them)) + "' ''"},
		{"say something in its name", "req --timeout 1s '" + state + "' '{}'"},
		{"change what it is to run", "req --timeout 1s '" + wire.DesiredState.Subject(wire.DeviceKey(them)) + "' '{}'"},
		{"change what itself is to run", "req --timeout 1s '" + wire.DesiredState.Subject(wire.DeviceKey(me)) + "' '{}'"},
		{"listen to the answers that it gets", "sub --wait 1s '" + wire.InboxPrefix(them) + ".>'"},
		{"command it", "req --timeout 1s '" + wire.CommandSubject(them, wire.VerbPing) + "' ''"},
		{"list the buckets", "kv ls"},
	}
}

// ownManifest is none: what is its own a device may read.
func ownManifest() breakout {
	return breakout{"read its own manifest", "req --timeout 5s '" + wire.DesiredState.DirectGet(wire.DeviceKey("device-a")) + "' ''"}
}

// Shell is the whole command.
func (b breakout) Shell() string { return "nats-device-a " + b.command }
