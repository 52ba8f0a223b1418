// Package attest signs what a release says about an image: that it is ours, and
// what it was built from. Signatures are as cosign makes them with a key, so that
// cosign, podman and the admission controllers of clusters can check them. It
// never talks to a registry or a transparency log, and makes no keys.
package attest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// PasswordVariable is the environment variable with the password of a key that is
// encrypted, as cosign calls it.
const PasswordVariable = "COSIGN_PASSWORD"

// Key signs. The same content gets the same signature each time, so that a release
// that was interrupted can be repeated without leaving two of everything.
type Key struct{ signer crypto.Signer }

// ReadKey reads a private key in PEM: ECDSA or Ed25519, in PKCS#8 or as `cosign
// generate-key-pair` writes it.
func ReadKey(file string) (*Key, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(data, password)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key %s (a private key in PEM; the password of an encrypted one is in %s): %w", file, PasswordVariable, err)
	}
	switch private := private.(type) {
	case *ecdsa.PrivateKey:
		return &Key{signer: private}, nil
	case ed25519.PrivateKey:
		return &Key{signer: private}, nil
	default:
		return nil, fmt.Errorf("reading the signing key %s: it is a %T; use ECDSA or Ed25519", file, private)
	}
}

func password(bool) ([]byte, error) { return []byte(os.Getenv(PasswordVariable)), nil }

// Public is the other half, for whoever checks.
func (k *Key) Public() crypto.PublicKey { return k.signer.Public() }

// KeyID is what DSSE envelopes name the key by: nothing, as cosign has it. Checkers
// make ids up in different ways, and skip a signature that has another one.
func (k *Key) KeyID() (string, error) { return "", nil }

// Sign signs the data: with ECDSA their SHA-256, and without chance (RFC 6979).
func (k *Key) Sign(_ context.Context, data []byte) ([]byte, error) {
	if _, whole := k.signer.(ed25519.PrivateKey); whole {
		return k.signer.Sign(nil, data, crypto.Hash(0))
	}
	digest := sha256.Sum256(data)
	return k.signer.Sign(nil, digest[:], crypto.SHA256)
}
