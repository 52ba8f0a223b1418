// Package config reads the agent's configuration: one TOML file and the files of
// conf.d beside it. What the fields mean and which values they take is in
// apis/config/v1alpha1; this package opens files and says where in them a
// mistake is. It never guesses: an unknown key is an error.
package config

import (
	"bytes"
	"cmp"
	_ "embed" // of the default
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// DefaultPath is where the packages put the file, and Environment the variable
// that names another one. UserPath is where a user who is not root has it, below
// $XDG_CONFIG_HOME, else ~/.config.
const (
	DefaultPath = "/etc/fleet-agent/config.toml"
	UserPath    = "fleet-agent/config.toml"
	Environment = "FLEET_AGENT_CONFIG"
)

// Default is what a new device has as config.toml: each field, as a comment, with
// the value that it has anyway.
//
//go:embed default.toml
var Default []byte

// deviceIDLabel is set by the operator from the device's id. A device that
// could write it could ask for what was meant for another.
const deviceIDLabel = "device-id"

// Path is the file to read when no flag names one.
func Path() string {
	if path := os.Getenv(Environment); path != "" {
		return path
	}
	if dir, err := os.UserConfigDir(); err == nil && os.Geteuid() != 0 {
		return filepath.Join(dir, UserPath)
	}
	return DefaultPath
}

// defaults is what holds where the files are silent: a user who is not root keeps
// state below $XDG_STATE_HOME, else ~/.local/state.
func defaults() v1alpha1.AgentConfig {
	cfg := v1alpha1.AgentDefaults()
	if home, err := os.UserHomeDir(); err == nil && os.Geteuid() != 0 {
		cfg.Agent.StateDir = filepath.Join(cmp.Or(os.Getenv("XDG_STATE_HOME"), filepath.Join(home, ".local/state")), "fleet-agent")
	}
	return cfg
}

// Load reads the file at path and lays conf.d/*.toml beside it over it, in the
// order of their names: tables and labels are merged key by key, and lists are
// replaced. It fails with every mistake that it finds, each as
// "file:line:column: what", or as "file: [section] field: what" for a value that
// is well-formed and not allowed.
func Load(path string) (v1alpha1.AgentConfig, error) {
	cfg := defaults()
	if err := errors.Join(overlay(path, &cfg), overlayDropIns(path, &cfg)); err != nil {
		return cfg, err
	}
	err := cfg.Validate()
	if _, set := cfg.Labels[deviceIDLabel]; set {
		err = errors.Join(err, fmt.Errorf("[labels] %s: is set from [agent] device_id and cannot be written", deviceIDLabel))
	}
	if err != nil {
		return cfg, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// overlayDropIns writes what the files of conf.d beside path say into cfg.
func overlayDropIns(path string, cfg *v1alpha1.AgentConfig) error {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "conf.d", "*.toml"))
	if err != nil {
		return fmt.Errorf("listing conf.d beside %q: %w", path, err)
	}
	var errs []error
	for _, file := range files {
		errs = append(errs, overlay(file, cfg))
	}
	return errors.Join(errs...)
}

// overlay writes what one file says into cfg.
func overlay(file string, cfg *v1alpha1.AgentConfig) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	if at, what := badDuration(data); at != nil {
		return located(file, at, what)
	}
	err = toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(cfg)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var errs []error
		for _, missing := range strict.Errors {
			errs = append(errs, located(file, &missing, unknown(missing.Key())))
		}
		return errors.Join(errs...)
	}
	var mistake *toml.DecodeError
	if errors.As(err, &mistake) {
		return located(file, mistake, malformed(mistake))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// located is a mistake at its place, as compilers spell it.
func located(file string, at *toml.DecodeError, what string) error {
	line, column := at.Position()
	return fmt.Errorf("%s:%d:%d: %s", file, line, column, what)
}
