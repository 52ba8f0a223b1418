package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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

// joinedFile is the one of conf.d that joining writes: config.toml is its owner's.
const joinedFile = "conf.d/10-joined.toml"

const header = "# Written by fleet-agent join. What else there is to say goes into ../config.toml.\n\n"

// Create writes what a device was told when it joined into conf.d beside path, and
// the default to path if there is no file. It never replaces one: it fails with
// fs.ErrExist when the device has joined before.
func Create(path string, cfg v1alpha1.AgentConfig) error {
	var file joined
	file.Agent.DeviceID, file.Agent.TrustedKeys = cfg.Agent.DeviceID, cfg.Agent.TrustedKeys
	file.NATS.URLs, file.NATS.CAFile = cfg.NATS.URLs, cfg.NATS.CAFile
	file.Credentials.Type, file.Credentials.SeedFile = cfg.Credentials.Type, cfg.Credentials.SeedFile
	text, err := toml.Marshal(file)
	if err != nil {
		return fmt.Errorf("encoding the configuration: %w", err)
	}
	if err := store.Create(path, Default, 0o644); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return store.Create(joinedBeside(path), append([]byte(header), text...), 0o644)
}

func joinedBeside(path string) string { return filepath.Join(filepath.Dir(path), joinedFile) }

// ErrConfigured says that there is a configuration already.
var ErrConfigured = errors.New("this device is configured already")

// Unjoined is what the files say of a device that is in no fleet yet, over the
// defaults; there may be none. It fails with ErrConfigured, which names the file, when
// they say how to log in.
func Unjoined(path string) (v1alpha1.AgentConfig, error) {
	cfg := defaults()
	err := overlay(path, &cfg)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(err, overlayDropIns(path, &cfg)); err != nil {
		return cfg, err
	}
	if cfg.Credentials.Type == "" {
		return cfg, nil
	}
	file := joinedBeside(path)
	if _, err := os.Stat(file); err != nil {
		file = path
	}
	return cfg, fmt.Errorf("%w, as device %q in %s", ErrConfigured, cfg.Agent.DeviceID, file)
}
