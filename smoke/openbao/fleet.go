package openbao

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/openbao/openbao/api/v2"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// What stands for Kubernetes, which issues the tokens of service accounts.
const (
	accountIssuer   = "https://kubernetes.default.svc"
	accountAudience = "openbao"
)

// Fleet is a server that is set up as the fleet needs it: an engine with the
// policies of devices, and a login for the programs of the cluster with tokens
// of service accounts. Those are signed here, in the stead of Kubernetes.
type Fleet struct {
	*Server
	layout config.OpenBaoSection
	key    *rsa.PrivateKey
}

// Fleet sets a server up that has nothing mounted yet.
func (s *Server) Fleet(ctx context.Context) (*Fleet, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("making the key of service accounts: %w", err)
	}
	public, err := publicKey(key.Public())
	if err != nil {
		return nil, err
	}
	f, err := s.FleetOf(ctx, Issuer{PublicKeys: []string{public}, Name: accountIssuer})
	if err == nil {
		f.key = key
	}
	return f, err
}

// FleetOf does so for the service accounts of a real cluster, which have tokens of that
// issuer. Programs are let in by Admit, and not by Program.
func (s *Server) FleetOf(ctx context.Context, accounts Issuer) (*Fleet, error) {
	f := &Fleet{Server: s, layout: config.OpenBaoDefaults()}
	f.layout.Address = s.Address()
	if err := s.EnableKV(ctx, f.layout.Mount); err != nil {
		return nil, err
	}
	_, err := s.EnableJWT(ctx, f.layout.LoginMount, accounts)
	return f, err
}

// PublicKeys are those of a JSON Web Key Set, in PEM.
func PublicKeys(set []byte) (all []string, err error) {
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(set, &keys); err != nil {
		return nil, fmt.Errorf("reading a set of keys: %w", err)
	}
	for _, key := range keys.Keys {
		public, err := publicKey(key.Key)
		if err != nil {
			return nil, err
		}
		all = append(all, public)
	}
	return all, nil
}

func publicKey(key any) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encoding the key of service accounts: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// Program lets a program of the cluster log in with the role of that name, and
// returns its part of a configuration file. The token is written into the folder.
func (f *Fleet) Program(ctx context.Context, role, dir string) (config.OpenBaoSection, error) {
	section := f.layout
	section.LoginRole, section.LoginTokenFile = role, filepath.Join(dir, role+".token")
	subject := "system:serviceaccount:fleet-system:" + role
	if err := f.Admit(ctx, role, subject, accountAudience); err != nil {
		return section, err
	}
	token, err := f.accountToken(subject)
	if err != nil {
		return section, err
	}
	if err := os.WriteFile(section.LoginTokenFile, []byte(token+"\n"), 0o600); err != nil {
		return section, fmt.Errorf("writing the token of a service account: %w", err)
	}
	return section, nil
}

// Admit lets the service account with that name in tokens, and that audience, log in
// with the role of a program.
func (f *Fleet) Admit(ctx context.Context, role, subject, audience string) error {
	rules := policy.CalloutRules(f.layout.Mount)
	if role == config.OperatorDefaults().OpenBao.LoginRole {
		rules = policy.ReaderRules(f.layout.Mount) + secret.OperatorRules()
	}
	if err := f.WritePolicy(ctx, role, rules); err != nil {
		return err
	}
	return f.WriteRole(ctx, f.layout.LoginMount, role, Role{
		Audiences: []string{audience}, Claims: map[string]any{"sub": subject}, Policies: []string{role}, TTL: time.Hour,
	})
}

// accountToken is good for a day, longer than any test or demo.
func (f *Fleet) accountToken(subject string) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: f.key}, nil)
	if err != nil {
		return "", fmt.Errorf("signing the token of a service account: %w", err)
	}
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: accountIssuer, Subject: subject, Audience: jwt.Audience{accountAudience},
		IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(24 * time.Hour)),
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("signing the token of a service account: %w", err)
	}
	return token, nil
}

// Person returns the token of somebody who enrols and revokes devices.
func (f *Fleet) Person(ctx context.Context) (string, error) {
	const people = "fleet-people"
	if err := f.WritePolicy(ctx, people, policy.PeopleRules(f.layout.Mount)); err != nil {
		return "", err
	}
	admin, err := f.admin()
	if err != nil {
		return "", err
	}
	created, err := admin.Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{Policies: []string{people}, TTL: "24h"})
	if err != nil {
		return "", fmt.Errorf("making a token for a person: %w", err)
	}
	return created.Auth.ClientToken, nil
}

// PutPolicy decides of a device what the policy says.
func (f *Fleet) PutPolicy(ctx context.Context, id wire.DeviceID, p policy.Policy) error {
	encoded, err := p.Encode()
	if err != nil {
		return fmt.Errorf("the policy of %q: %w", id, err)
	}
	var data map[string]any
	if err := json.Unmarshal(encoded, &data); err != nil {
		return fmt.Errorf("the policy of %q: %w", id, err)
	}
	return f.PutSecret(ctx, f.layout.Mount, "devices/"+string(id), data)
}

// Revoke revokes a device.
func (f *Fleet) Revoke(ctx context.Context, id wire.DeviceID, reason string) error {
	return f.PutSecret(ctx, f.layout.Mount, "revoked/"+string(id), map[string]any{"reason": reason})
}

// Pardon takes back that the device is revoked.
func (f *Fleet) Pardon(ctx context.Context, id wire.DeviceID) error {
	admin, err := f.admin()
	if err != nil {
		return err
	}
	if err := admin.KVv2(f.layout.Mount).DeleteMetadata(ctx, "revoked/"+string(id)); err != nil {
		return fmt.Errorf("taking back that %q is revoked: %w", id, err)
	}
	return nil
}
