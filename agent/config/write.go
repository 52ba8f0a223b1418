package config

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/pelletier/go-toml/v2"

	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// joined is what a device is told when it joins a fleet; everything else has a
// default, or is the owner's to write.
type joined struct {
	Agent struct {
		DeviceID    string   `toml:"device_id"`
		TrustedKeys []string `toml:"trusted_keys"`
	} `toml:"agent"`
	NATS struct {
		URLs   []string `toml:"urls"`
		CAFile string   `toml:"ca_file,omitempty"`
	} `toml:"nats"`
	Credentials struct {
		Type     v1alpha1.CredentialType `toml:"type"`
		SeedFile string                  `toml:"seed_file"`
	} `toml:"credentials"`
}

const header = `# Written by fleet-agent join. What else there is to say goes here too, or into
# conf.d/*.toml beside this file: [labels] of the device, for example.

`

// Create writes the configuration of a device that has joined, and never replaces
// one: it fails with fs.ErrExist.
func Create(path string, cfg v1alpha1.AgentConfig) error {
	var file joined
	file.Agent.DeviceID, file.Agent.TrustedKeys = cfg.Agent.DeviceID, cfg.Agent.TrustedKeys
	file.NATS.URLs, file.NATS.CAFile = cfg.NATS.URLs, cfg.NATS.CAFile
	file.Credentials.Type, file.Credentials.SeedFile = cfg.Credentials.Type, cfg.Credentials.SeedFile
	text, err := toml.Marshal(file)
	if err != nil {
		return fmt.Errorf("encoding the configuration: %w", err)
	}
	return store.Create(path, append([]byte(header), text...), 0o644)
}

// ErrConfigured says that there is a configuration already.
var ErrConfigured = errors.New("this device is configured already")

// Unwritten is what conf.d says where there is no configuration yet, over the
// defaults. It fails with ErrConfigured, which names the file, when there is one.
func Unwritten(path string) (v1alpha1.AgentConfig, error) {
	cfg := v1alpha1.AgentDefaults()
	switch there, err := Load(path); {
	case errors.Is(err, fs.ErrNotExist):
		return cfg, overlayDropIns(path, &cfg)
	case err == nil:
		return cfg, fmt.Errorf("%w, as device %q in %s", ErrConfigured, there.Agent.DeviceID, path)
	default:
		return cfg, fmt.Errorf("%w, in %s (which has a mistake: %w)", ErrConfigured, path, err)
	}
}
