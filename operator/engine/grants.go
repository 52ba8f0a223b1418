package engine

import (
	"context"
	"errors"
	"time"

	"github.com/nationtech/harmony-fleet/apis/secret"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/fleet"
	"github.com/nationtech/harmony-fleet/operator/openbao"
)

const (
	// grantTick is how often the core is asked who may read which secrets.
	grantTick = time.Second
	// grantBatch bounds what is taken from the core at once.
	grantBatch = 100
)

// Secrets is where it stands which secrets a device may read.
type Secrets interface {
	// Grant lets a device read exactly these, and tells how many are too many. It
	// fails with openbao.ErrNoEntity for one that cannot read any.
	Grant(context.Context, wire.DeviceID, []secret.Ref) (over int, err error)
}

// grant has each device read what its Deployments name, until ctx ends, and now
// and then looks at all that is granted anew.
func (e *Engine) grant(ctx context.Context) {
	audit := time.NewTicker(time.Duration(e.o.Config.AuditInterval))
	defer audit.Stop()
	due := time.NewTimer(grantTick)
	defer due.Stop()
	backoff, problem := retry(), ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-audit.C:
			e.mu.Lock()
			e.core.AuditGrants()
			e.mu.Unlock()
			continue
		case <-due.C:
		}
		pause := grantTick
		if err := e.grantDue(ctx); err == nil {
			backoff, problem = retry(), ""
		} else if ctx.Err() == nil {
			pause = max(pause, backoff.Step())
			if text := err.Error(); text != problem {
				problem = text
				e.o.Log.Error(err, "cannot say in OpenBao which secrets devices may read; trying again")
			}
		}
		due.Reset(pause)
	}
}

// grantDue makes the grants that are due.
func (e *Engine) grantDue(ctx context.Context) error {
	for {
		e.mu.Lock()
		due := e.core.TakeGrants(grantBatch)
		e.mu.Unlock()
		if len(due) == 0 {
			return nil
		}
		var failed error
		for _, g := range due {
			if failed == nil {
				failed = e.grantOne(ctx, g)
			}
			e.mu.Lock()
			e.core.Granted(g, failed == nil)
			e.mu.Unlock()
		}
		if failed != nil {
			return failed // the others would fail in the same way
		}
	}
}

func (e *Engine) grantOne(ctx context.Context, g fleet.Grant) error {
	over, err := e.o.Secrets.Grant(ctx, g.Device, g.Secrets)
	switch {
	case errors.Is(err, openbao.ErrNoEntity):
		// It stays so until somebody enrols the device: the next audit looks again.
		e.o.Log.Info("a device cannot read its secrets: OpenBao does not know it; enrol it as one that logs in by token",
			"device", g.Device, "secrets", len(g.Secrets))
		return nil
	case err != nil:
		return err
	case over > 0:
		e.o.Log.Info("a device's deployments name more secrets than it may read", "device", g.Device, "limit", secret.MaxPerDevice, "over", over)
	}
	return nil
}
