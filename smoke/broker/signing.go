package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// signing is the operator's key, which belongs to the broker's folder as the
// users do.
type signing struct {
	file   string
	signer *wire.Signer
}

func newSigning(dir string) (signing, error) {
	s := signing{file: filepath.Join(dir, "signing.seed")}
	seed, err := wire.NewSigningKey()
	if err != nil {
		return s, err
	}
	if s.signer, err = wire.NewSigner(seed); err != nil {
		return s, err
	}
	if err := os.WriteFile(s.file, seed, 0o600); err != nil {
		return s, fmt.Errorf("writing the signing key: %w", err)
	}
	return s, nil
}

// Signing is the operator's part of a configuration file.
func (b *base) Signing() v1alpha1.Signing {
	s := v1alpha1.OperatorDefaults().Signing
	s.KeyFiles = []string{b.signing.file}
	return s
}

// TrustedKeys is the agents' part of a configuration file.
func (b *base) TrustedKeys() []string { return b.signing.signer.Keys() }

// Signer signs as the operator does.
func (b *base) Signer() *wire.Signer { return b.signing.signer }

// Manifest is what an operator stores for a device: signed, and valid for an
// hour.
func (b *base) Manifest(device wire.DeviceID, generation uint64, deployments map[string]wire.ManifestEntry) ([]byte, error) {
	return b.signing.signer.Sign(device, wire.Manifest{
		Generation: generation, NotAfter: time.Now().Add(time.Hour), Deployments: deployments,
	})
}
