package wire

import (
	"fmt"

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
// the keys it names.
type Manifest struct {
	// Generation grows with every change of this manifest. A device never goes
	// back to a lower one.
	Generation uint64 `json:"generation"`
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

// Encode is the canonical encoding. A nil Deployments is written as empty.
func (m Manifest) Encode() ([]byte, error) {
	if m.Deployments == nil {
		m.Deployments = map[string]ManifestEntry{}
	}
	return encode("manifest", m)
}

// DecodeManifest reads a manifest. It fails with ErrMalformed.
func DecodeManifest(data []byte) (Manifest, error) {
	var m Manifest
	if err := decode("manifest", data, int(DesiredState.MaxMessageSize), &m); err != nil {
		return Manifest{}, err
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
