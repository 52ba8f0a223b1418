package wire

import (
	"fmt"
	"time"

	"github.com/nationtech/harmony-fleet/apis/score"
)

// MaxDeploymentsPerDevice bounds one device's manifest, so that it fits into a
// message of the desired-state bucket.
const MaxDeploymentsPerDevice = 1000

// MaxGeneration is the largest manifest generation, 2^53-1: every JSON reader
// holds it exactly.
const MaxGeneration = 1<<53 - 1

// Manifest is the whole truth about what one device shall run: a Deployment that
// it does not name shall not be there. It is written in one atomic batch with
// the keys it names, and signed: see SignedManifest.
type Manifest struct {
	// Device that it is for.
	Device DeviceID `json:"device"`
	// Generation grows with every change of this manifest. A device never goes
	// back to a lower one.
	Generation uint64 `json:"generation"`
	// NotAfter is when it ceases to be taken over, in whole seconds. What a device
	// has taken over goes on.
	NotAfter time.Time `json:"notAfter"`
	// HoldUntil is until when the device shall change nothing of what it runs, in whole
	// seconds; zero when it may. An agent that is too old for it goes on.
	HoldUntil time.Time `json:"holdUntil,omitzero"`
	// Keys are the public nkeys that may sign the next manifest.
	Keys []string `json:"keys"`
	// Deployments holds an entry for each of the device's keys, under
	// "<namespace>.<name>".
	Deployments map[string]ManifestEntry `json:"deployments"`
}

// ManifestEntry names one score.
type ManifestEntry struct {
	// Revision is the metadata.generation of the Deployment when the score was
	// written, for people to read.
	Revision int64 `json:"revision"`
	// Digest of the score's canonical bytes.
	Digest score.Digest `json:"digest"`
}

// encode is the canonical encoding. A nil Deployments is written as empty.
func (m Manifest) encode() ([]byte, error) {
	if m.Deployments == nil {
		m.Deployments = map[string]ManifestEntry{}
	}
	m.NotAfter = m.NotAfter.UTC().Truncate(time.Second)
	m.HoldUntil = m.HoldUntil.UTC().Truncate(time.Second)
	return encode("manifest", m)
}

// decodeManifest reads what was signed. It fails with ErrMalformed.
func decodeManifest(data []byte) (Manifest, error) {
	var m Manifest
	if err := decode("manifest", data, int(DesiredState.MaxMessageSize), &m); err != nil {
		return Manifest{}, err
	}
	if !isLabel(string(m.Device)) {
		return Manifest{}, malformed("manifest", "device is not a device id")
	}
	if m.NotAfter.IsZero() {
		return Manifest{}, malformed("manifest", "notAfter is missing")
	}
	if len(m.Keys) == 0 || len(m.Keys) > MaxSigners {
		return Manifest{}, malformed("manifest", fmt.Sprintf("%d keys, want 1 to %d", len(m.Keys), MaxSigners))
	}
	for _, key := range m.Keys {
		if err := CheckSigningKey(key); err != nil {
			return Manifest{}, malformed("manifest", err.Error())
		}
	}
	if m.Generation == 0 || m.Generation > MaxGeneration {
		return Manifest{}, malformed("manifest", "generation must be 1 to 2^53-1")
	}
	if m.Deployments == nil {
		return Manifest{}, malformed("manifest", "deployments is missing")
	}
	if len(m.Deployments) > MaxDeploymentsPerDevice {
		return Manifest{}, malformed("manifest", fmt.Sprintf("%d deployments, at most %d", len(m.Deployments), MaxDeploymentsPerDevice))
	}
	for token, entry := range m.Deployments {
		if _, err := ParseDeploymentToken(token); err != nil {
			return Manifest{}, fmt.Errorf("manifest: %w: %w", ErrMalformed, err)
		}
		if !entry.Digest.Valid() {
			return Manifest{}, malformed("manifest", fmt.Sprintf("%s: digest is not sha256:<64 hex digits>", token))
		}
	}
	return m, nil
}
