package store

import (
	"encoding/json"
	"fmt"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/secret"
)

// SecretInUse is which version of a secret podman holds, and which of its keys, so
// that containers with secrets start after a power cut without a network. It has
// no value.
type SecretInUse struct {
	Ref     secret.Ref
	Version reconcile.SecretVersion
	Keys    []string
}

// secretJSON is an entry of the file.
type secretJSON struct {
	// Secret is "namespace/deployment/name".
	Secret  string                  `json:"secret"`
	Version reconcile.SecretVersion `json:"version"`
	Keys    []string                `json:"keys"`
}

// LoadSecrets reads which secrets were in use; none when there is no file. A
// damaged one is kept aside, and ErrDamaged names it: OpenBao tells it all again.
func (s *Store) LoadSecrets() ([]SecretInUse, error) {
	data, err := s.read(secretsFile)
	if data == nil || err != nil {
		return nil, err
	}
	secrets, err := decodeSecrets(data)
	if err == nil {
		return secrets, nil
	}
	return nil, s.setAside(secretsFile, err)
}

func decodeSecrets(data []byte) ([]SecretInUse, error) {
	var file []secretJSON
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	var secrets []SecretInUse
	for _, entry := range file {
		ref, err := secret.ParseRef(entry.Secret)
		if err != nil {
			return nil, err
		}
		if entry.Version == "" || len(entry.Keys) == 0 {
			return nil, fmt.Errorf("version or keys of %s are missing", entry.Secret)
		}
		secrets = append(secrets, SecretInUse{Ref: ref, Version: entry.Version, Keys: entry.Keys})
	}
	return secrets, nil
}

// SaveSecrets makes them durable before it returns.
func (s *Store) SaveSecrets(secrets []SecretInUse) error {
	file := []secretJSON{}
	for _, one := range secrets {
		file = append(file, secretJSON{Secret: one.Ref.String(), Version: one.Version, Keys: one.Keys})
	}
	return s.save(secretsFile, file)
}
