package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// callout is what broker and auth callout share, in the broker's folder.
type callout struct {
	issuer, xkey, user key
}

// key is an nkey in a file.
type key struct{ file, public string }

func newCallout(dir string) (*callout, error) {
	c := &callout{}
	for _, k := range []struct {
		key  *key
		name string
		make func() (nkeys.KeyPair, error)
	}{{&c.issuer, "callout-issuer", nkeys.CreateAccount}, {&c.xkey, "callout-x", nkeys.CreateCurveKeys}, {&c.user, "callout-user", nkeys.CreateUser}} {
		pair, err := k.make()
		if err != nil {
			return nil, fmt.Errorf("making the key %q: %w", k.name, err)
		}
		if *k.key, err = saveKey(filepath.Join(dir, k.name+".seed"), pair); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func saveKey(file string, pair nkeys.KeyPair) (key, error) {
	seed, err := pair.Seed()
	if err != nil {
		return key{}, fmt.Errorf("reading the key for %s: %w", file, err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return key{}, fmt.Errorf("reading the key for %s: %w", file, err)
	}
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		return key{}, fmt.Errorf("writing a key: %w", err)
	}
	return key{file, public}, nil
}

// authorization has the broker ask the callout about everybody but the users that
// it knows itself.
func (c *callout) authorization(users map[string][]user, timeout time.Duration) *authorizationConfig {
	a := &authorizationConfig{Timeout: timeout.Seconds(), Callout: calloutConfig{Issuer: c.issuer.public, XKey: c.xkey.public, Account: wire.AccountAuth}}
	for _, account := range wire.Accounts() {
		for _, u := range users[account.Name] {
			a.Callout.Users = append(a.Callout.Users, u.User+u.nkey)
		}
	}
	return a
}

// Callout is fleet-callout's part of a configuration file: the broker, its user
// there and the keys. Only for a broker with Options.Callout.
func (b *base) Callout() v1alpha1.CalloutConfig {
	c := v1alpha1.CalloutDefaults()
	c.NATS = b.NATS()
	c.Credentials = v1alpha1.Credentials{Type: v1alpha1.CredentialNKey, SeedFile: b.callout.user.file}
	c.IssuerKeyFile, c.XKeyFile = b.callout.issuer.file, b.callout.xkey.file
	return c
}
