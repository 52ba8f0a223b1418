package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/apis/score"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// Desired is what the device shall run.
type Desired struct {
	// Generation of the manifest that said so; 0 means that nothing is known yet,
	// which is not the same as "nothing shall run".
	Generation  uint64
	Deployments map[wire.DeploymentID]Workload
	Trust       Trust
	// Hold is what the manifest asks for; zero for nothing, or when it is over.
	Hold hold.Hold
}

// Trust is whose signature the next manifest must have.
type Trust struct {
	// Configured are the keys of the configuration when this manifest was taken
	// over, and Named those that the manifest named.
	Configured []string `json:"configured"`
	Named      []string `json:"named"`
}

// Trusted are the keys whose signature counts now: those that the last manifest
// named, unless somebody has written others into the configuration since.
func (d Desired) Trusted(configured []string) []string {
	if len(d.Trust.Named) > 0 && slices.Equal(d.Trust.Configured, configured) {
		return d.Trust.Named
	}
	return configured
}

// Workload is one Deployment's score as the operator wrote it.
type Workload struct {
	// Revision is the metadata.generation of the Deployment, for people to read.
	Revision int64 `json:"revision"`
	// Digest of Score.
	Digest score.Digest `json:"digest"`
	// Score is the canonical encoding, kept byte for byte because a newer
	// operator may have written what this agent cannot decode.
	Score []byte `json:"score"`
}

// desiredJSON is the file's shape; Deployments is keyed by "namespace.name".
type desiredJSON struct {
	Generation  uint64              `json:"generation"`
	Deployments map[string]Workload `json:"deployments"`
	Trust       Trust               `json:"trust"`
	Hold        hold.Hold           `json:"hold,omitzero"`
}

// ErrDamaged says that a saved file cannot be read.
var ErrDamaged = errors.New("saved state is damaged")

// LoadDesired reads the last saved desired state; it is zero when there is none.
// A damaged file is kept aside under another name for people to look at, and
// ErrDamaged names it: the caller knows nothing then and must not remove
// anything.
func (s *Store) LoadDesired() (Desired, error) {
	data, err := s.read(desiredFile)
	if data == nil || err != nil {
		return Desired{}, err
	}
	d, err := decodeDesired(data)
	if err == nil {
		return d, nil
	}
	return Desired{}, s.setAside(desiredFile, err)
}

func decodeDesired(data []byte) (Desired, error) {
	var file desiredJSON
	if err := json.Unmarshal(data, &file); err != nil {
		return Desired{}, err
	}
	if file.Generation == 0 || file.Deployments == nil {
		return Desired{}, errors.New("generation or deployments is missing")
	}
	d := Desired{Generation: file.Generation, Trust: file.Trust, Hold: file.Hold.Plain(), Deployments: make(map[wire.DeploymentID]Workload, len(file.Deployments))}
	for token, w := range file.Deployments {
		id, err := wire.ParseDeploymentToken(token)
		if err != nil {
			return Desired{}, err
		}
		if score.DigestOf(w.Score) != w.Digest {
			return Desired{}, fmt.Errorf("score of %s does not have the digest beside it", id)
		}
		d.Deployments[id] = w
	}
	return d, nil
}

// SaveDesired makes d durable before it returns. After an error, such as a full
// disk, the file has what it had.
func (s *Store) SaveDesired(d Desired) error {
	file := desiredJSON{Generation: d.Generation, Trust: d.Trust, Hold: d.Hold, Deployments: make(map[string]Workload, len(d.Deployments))}
	for id, w := range d.Deployments {
		file.Deployments[id.Token()] = w
	}
	return s.save(desiredFile, file)
}
