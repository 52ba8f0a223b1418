// Package join makes a device one of a fleet: it makes the device's key, has the
// broker know it by a token of enrolment, and writes the configuration. The key
// never leaves the device. What is there already is never replaced, and a join that
// was interrupted goes on with its key when it is run again.
package join

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nationtech/harmony-fleet/agent/backoff"
	"github.com/nationtech/harmony-fleet/agent/bus"
	"github.com/nationtech/harmony-fleet/agent/config"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// tries is how often the broker is asked: it refuses also while it cannot find
	// out what is right.
	tries = 3
	// pause between them.
	pause = 3 * time.Second
)

// Options of Run; all are needed.
type Options struct {
	Request
	// Path of the configuration to write; the other files get beside it.
	Path string
	// Tell tells the person what is being done.
	Tell func(text string)
}

// Run joins, and returns the configuration that it wrote. Errors say what to do.
func Run(ctx context.Context, o Options) (v1alpha1.AgentConfig, error) {
	cfg, err := config.Unjoined(o.Path)
	if errors.Is(err, config.ErrConfigured) {
		return cfg, fmt.Errorf("%w: move the file away to join anew; nothing was changed", err)
	}
	if err != nil {
		return cfg, err
	}
	p, err := newPlan(o.Request, cfg, filepath.Dir(o.Path))
	if err != nil {
		return cfg, err
	}
	if err := unused(p.config); err != nil {
		return p.config, err
	}
	if err := p.saveCA(); err != nil {
		return p.config, err
	}
	public, err := p.key(o.Tell)
	if err != nil {
		return p.config, err
	}
	o.Tell(fmt.Sprintf("asking the broker to take the key %s ...", public))
	if err := p.ask(ctx, o); err != nil {
		return p.config, err
	}
	if err := config.Create(o.Path, p.config); err != nil {
		return p.config, fmt.Errorf("%w (the broker knows the key: run the same command again)", err)
	}
	// With conf.d laid over it.
	return config.Load(o.Path)
}

// unused fails when the device would go on with what it was as another one.
func unused(cfg v1alpha1.AgentConfig) error {
	dir := cfg.Agent.StateDir
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	files, err := store.Open(dir)
	if err != nil {
		return err
	}
	report, err := files.LoadReport()
	if err != nil {
		return fmt.Errorf("%w: move %s away if this device begins anew", err, dir)
	}
	if report.Device != "" && report.Device != wire.DeviceID(cfg.Agent.DeviceID) {
		return fmt.Errorf("%s has what this device was to run as %q: move it away to join as %q; nothing was changed", dir, report.Device, cfg.Agent.DeviceID)
	}
	return nil
}

// saveCA writes the certificates to trust, if there are any.
func (p plan) saveCA() error {
	if p.ca == nil {
		return nil
	}
	err := store.Create(p.config.NATS.CAFile, p.ca, 0o644)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, err := os.ReadFile(p.config.NATS.CAFile)
	if err == nil && string(there) != string(p.ca) {
		return fmt.Errorf("%s has other certificates: move it away; nothing was changed", p.config.NATS.CAFile)
	}
	return err
}

// key makes the device's key, durably and before anybody hears of it, or finds the
// one that an earlier try with this token made. It returns the public part.
func (p plan) key(tell func(string)) (public string, err error) {
	file := p.config.Credentials.SeedFile
	seed, err := bus.NewKey()
	if err != nil {
		return "", err
	}
	switch err := store.Create(file, seed, 0o600); {
	case err == nil:
		tell("made the device's key in " + file)
	case errors.Is(err, fs.ErrExist):
		tell("going on with the key of an earlier try in " + file)
	default:
		return "", err
	}
	if public, err = bus.PublicKey(file); err != nil {
		return "", fmt.Errorf("%w: move it away and run the same command again", err)
	}
	return public, nil
}

// ask has the broker take the key.
func (p plan) ask(ctx context.Context, o Options) error {
	to := bus.Target{Device: p.token.Device, NATS: p.config.NATS, Credentials: p.config.Credentials}
	for try := 1; ; try++ {
		err := bus.Join(ctx, to, p.token)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: run the same command again: %w", ctx.Err())
		}
		if try == tries {
			return explain(p.token, err)
		}
		o.Tell(fmt.Sprintf("not yet: %v; trying again", err))
		if !backoff.Sleep(ctx, pause) {
			return fmt.Errorf("interrupted: run the same command again: %w", ctx.Err())
		}
	}
}

// explain says what a person can do.
func explain(token policy.Token, err error) error {
	if !errors.Is(err, bus.ErrNotEnrolled) {
		return fmt.Errorf("%w; the token is not used up: run the same command again", err)
	}
	return fmt.Errorf(`%w. It was used or withdrawn, it has expired, device %q is revoked, or it may not connect from this network:
fleet-callout logs which, and `+"`kubectl fleet re-enroll %[2]s`"+` prints another command. Nothing else was changed`, err, token.Device)
}
