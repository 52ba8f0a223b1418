package oidc

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// keyBits is the size of Zitadel's keys, those of machines included.
const keyBits = 2048

type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

func newKey() (signingKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return signingKey{}, fmt.Errorf("making an RSA key: %w", err)
	}
	return signingKey{id: newID(), key: key}, nil
}

// RotateKeys signs with a new key from now on. Tokens of earlier keys stay
// valid until RetireOldKeys.
func (p *Provider) RotateKeys() error {
	key, err := newKey()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = append(p.keys, key)
	return nil
}

// RetireOldKeys publishes the current key alone. Who has cached the others
// accepts their tokens still.
func (p *Provider) RetireOldKeys() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = p.keys[len(p.keys)-1:]
}

// SigningKey is the current key and its id.
func (p *Provider) SigningKey() (id string, key *rsa.PrivateKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	current := p.keys[len(p.keys)-1]
	return current.id, current.key
}

// PublicKeyPEM is the public half of the current key: what a forger knows, and
// signs with by HMAC where a verifier lets the token choose the algorithm.
func (p *Provider) PublicKeyPEM() []byte {
	_, key := p.SigningKey()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		panic(err) // an RSA key can be marshalled
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func (p *Provider) keySet() jose.JSONWebKeySet {
	p.mu.Lock()
	defer p.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, k := range p.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{
			KeyID: k.id, Algorithm: string(jose.RS256), Use: "sig", Key: &k.key.PublicKey,
		})
	}
	return set
}
