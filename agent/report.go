package agent

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/nationtech/harmony-fleet/agent/backoff"
	"github.com/nationtech/harmony-fleet/agent/inventory"
	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/agent/store"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// reportInterval is the shortest time between two reports on the disk.
	reportInterval = 2 * time.Second
	// describeInterval is how often the device is looked at anew, and
	// describeRetry how often while podman does not answer.
	describeInterval = time.Hour
	describeRetry    = 10 * time.Second
	// describeTimeout leaves podman's service the time to start, which takes many
	// seconds on a small device that is busy.
	describeTimeout = 20 * time.Second
)

// report keeps the report on the disk true, and writes nothing while nothing
// changes: flash wears out.
func (a *agent) report(ctx context.Context) {
	var last store.Report
	problem := ""
	for first := true; ; first = false {
		next := a.currentReport()
		if first || !reflect.DeepEqual(next, last) {
			written := next
			written.Written = time.Now()
			if err := a.store.SaveReport(written); err == nil {
				last, problem = next, ""
			} else if err.Error() != problem {
				problem = err.Error()
				a.Log.Error(err, "report not written, `fleet-agent status` is out of date")
			}
		}
		if !backoff.Sleep(ctx, reportInterval) {
			return
		}
	}
}

func (a *agent) currentReport() store.Report {
	a.mu.Lock()
	broker, refused, twin := a.broker, a.refused, a.twin
	a.mu.Unlock()
	desired := a.manager.Desired()
	return store.Report{
		Device:      a.device,
		Generation:  desired.Generation,
		Refused:     refused,
		Twin:        twin,
		Hold:        a.manager.Hold(),
		Secrets:     a.secrets.Problem(),
		TrustedKeys: desired.Trusted(a.cfg.Agent.TrustedKeys),
		Broker:      broker,
		Deployments: a.manager.Deployments(),
	}
}

// describe tells the broker what this device is, and again when that changed.
// What podman said last is kept while it does not answer.
func (a *agent) describe(ctx context.Context) {
	var version string
	var disk uint64
	for {
		wait := describeInterval
		if v, d, err := a.askPodman(ctx); err == nil {
			version, disk = v, d
		} else {
			wait = describeRetry
		}
		info := wire.DeviceInfo{Labels: a.cfg.Labels, Inventory: inventory.Collect("/")}
		info.Inventory.AgentVersion = a.Version
		info.Inventory.PodmanVersion, info.Inventory.DiskBytes = version, int64(disk)
		if h := a.manager.Hold(); h != nil {
			info.Hold = &wire.Hold{Until: h.Until, By: h.By}
		}
		if err := a.bus.PutInfo(info); err != nil {
			a.Log.Error(err, "device not described")
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-a.news:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (a *agent) askPodman(ctx context.Context) (version string, disk uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	if version, err = a.podman.Version(ctx); err != nil {
		return "", 0, err
	}
	disk, err = a.podman.DiskBytes(ctx)
	return version, disk, err
}

// ping answers wire.VerbPing.
func (a *agent) ping(context.Context, []byte) ([]byte, error) {
	return wire.EncodeReply(wire.PingReply{
		AgentVersion:  a.Version,
		Session:       a.session,
		UptimeSeconds: int64(time.Since(a.started).Seconds()),
		Generation:    a.manager.Desired().Generation,
	})
}

// logs answers wire.VerbLogs.
func (a *agent) logs(ctx context.Context, body []byte) ([]byte, error) {
	request, err := wire.DecodeLogsRequest(body)
	if err != nil {
		return nil, &wire.CommandError{Reason: wire.CommandBadRequest, Message: err.Error()}
	}
	logs, err := a.podman.Logs(ctx, a.device, request)
	if errors.Is(err, podman.ErrNotFound) {
		return nil, &wire.CommandError{Reason: wire.CommandNotFound, Message: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	return wire.EncodeReply(wire.LogsReply{Logs: logs})
}
