package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nationtech/harmony-fleet/agent/config"
	"github.com/nationtech/harmony-fleet/agent/hold"
	"github.com/nationtech/harmony-fleet/agent/status"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// off is the operand that ends a hold.
const off = "off"

// length is how long the device shall be held; 0 when the hold shall end.
func (c *command) length() (time.Duration, error) {
	if c.operand == off {
		return 0, nil
	}
	length, err := time.ParseDuration(c.operand)
	if err != nil {
		return 0, fmt.Errorf(`hold %q: want a duration such as 90m or 2h, or "off"`, c.operand)
	}
	_, err = hold.New(time.Time{}, length, wire.HeldByDevice)
	return length, err
}

// hold asks the agent, which may be down, to change nothing for a while, or to go on.
func (p program) hold(c command) error {
	length, err := c.length()
	if err != nil {
		return err
	}
	cfg, err := config.Load(c.path)
	if err != nil {
		return err
	}
	files, err := store.Open(cfg.Agent.StateDir)
	if err != nil {
		return err
	}
	if c.operand == off {
		err = p.release(files)
	} else {
		err = p.begin(files, length)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("only root and the agent's own user may: %w", err)
	}
	if running, _ := status.Claimed(cfg.Agent.StateDir); err == nil && !running {
		fmt.Fprintln(p.out, "the agent does not run; it will go by this when it does")
	}
	return err
}

func (p program) begin(files *store.Store, length time.Duration) error {
	h, err := hold.New(time.Now(), length, wire.HeldByDevice)
	if err == nil {
		err = files.SaveHold(h)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "held until %s: what runs is kept running, and nothing else is done\nfleet-agent hold off ends it\n", h.Until.Local().Format(time.DateTime))
	return nil
}

func (p program) release(files *store.Store) error {
	h, err := files.LoadHold()
	if err != nil && !errors.Is(err, store.ErrDamaged) {
		return err
	}
	if h == (hold.Hold{}) {
		fmt.Fprintln(p.out, "this device holds nothing")
	} else if err := files.RemoveHold(h); err != nil {
		return err
	} else {
		fmt.Fprintln(p.out, "the hold is over")
	}
	report, err := files.LoadReport()
	if err == nil && report.Hold != nil && report.Hold.By == wire.HeldByCluster {
		fmt.Fprintf(p.out, "the device is still %s, where it must be ended\n", report.Hold)
	}
	return nil
}
