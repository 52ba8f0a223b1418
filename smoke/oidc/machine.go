package oidc

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// Machine is a user that is no person: a device, or a program in the cluster.
type Machine struct {
	// Name of the user; the client_id of its tokens, verbatim.
	Name string
	// Roles that it has in the project.
	Roles []string
	// RoleClaims is how its tokens tell them.
	RoleClaims RoleClaims
}

// RoleClaims is which claims tell the roles, and in which shape.
type RoleClaims int

const (
	// RoleMaps are objects {role: {organisation: its domain}} in the claim of the
	// project and in the general one, for either of the scopes that ask for roles.
	RoleMaps RoleClaims = iota
	// ProjectRoleMap is what Zitadel itself gives to machines: the claim of the
	// project alone, and only when its audience is asked for as well. The general
	// claim is for applications, which belong to a project.
	ProjectRoleMap
	// RoleArrays are plain lists, which other providers issue, in the claims of
	// RoleMaps.
	RoleArrays
)

// Credentials of a machine: a key for the grant of RFC 7523, and an id and a
// secret for that of client credentials.
type Credentials struct {
	// UserID is the sub of its tokens.
	UserID string
	// KeyJSON is the file that Zitadel's console offers for download.
	KeyJSON []byte
	// ClientID is the machine's name.
	ClientID, ClientSecret string
}

// machine is what the provider knows of one; it never changes.
type machine struct {
	Machine
	userID string
	keyID  string
	key    *rsa.PublicKey
	secret string
}

// AddMachine adds a machine with a key and a secret of its own.
func (p *Provider) AddMachine(m Machine) (Credentials, error) {
	if m.Name == "" {
		return Credentials{}, errors.New("adding a machine: it has no name")
	}
	key, err := newKey()
	if err != nil {
		return Credentials{}, fmt.Errorf("adding the machine %q: %w", m.Name, err)
	}
	added := machine{Machine: m, userID: newID(), keyID: key.id, key: &key.key.PublicKey, secret: rand.Text()}
	added.Roles = slices.Clone(m.Roles)
	file, err := keyFile(added.userID, key)
	if err != nil {
		return Credentials{}, fmt.Errorf("adding the machine %q: %w", m.Name, err)
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.machines[m.Name]; known {
		return Credentials{}, fmt.Errorf("adding the machine %q: there is one of that name", m.Name)
	}
	p.machines[m.Name] = added
	return Credentials{UserID: added.userID, KeyJSON: file, ClientID: m.Name, ClientSecret: added.secret}, nil
}

func keyFile(userID string, key signingKey) ([]byte, error) {
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key.key)}
	return json.Marshal(map[string]string{
		"type":   "serviceaccount",
		"keyId":  key.id,
		"key":    string(pem.EncodeToMemory(block)),
		"userId": userID,
	})
}

// RemoveMachine gives the machine no more tokens. Those that it has stay valid
// until they expire.
func (p *Provider) RemoveMachine(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.machines, name)
}

func (p *Provider) machineByName(name string) (machine, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, known := p.machines[name]
	return m, known
}

func (p *Provider) machineByUser(id string) (machine, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.machines {
		if m.userID == id {
			return m, true
		}
	}
	return machine{}, false
}
