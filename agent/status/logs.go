package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// PrintLogs writes the end of the logs that are asked for, of all containers of the
// device when the request names no Deployment: the lines alone of one container, and a
// heading above those of each of several. It fails with podman.ErrNotFound.
func PrintLogs(ctx context.Context, w io.Writer, cfg v1alpha1.AgentConfig, request wire.LogsRequest) error {
	client, device := podman.New(cfg.Podman.Socket), wire.DeviceID(cfg.Agent.DeviceID)
	wanted := []wire.DeploymentID{{Namespace: request.Namespace, Name: request.Deployment}}
	if request.Deployment == "" {
		containers, err := client.List(ctx, device)
		if err != nil {
			return err
		}
		if len(containers) == 0 {
			return podman.ErrNotFound
		}
		here := map[wire.DeploymentID]bool{}
		for _, c := range containers {
			here[c.Deployment] = true
		}
		wanted = slices.SortedFunc(maps.Keys(here), func(a, b wire.DeploymentID) int { return cmp.Compare(a.String(), b.String()) })
	}
	var all []serviceLog
	for _, id := range wanted {
		request.Namespace, request.Deployment = id.Namespace, id.Name
		logs, err := client.Logs(ctx, device, request)
		if err != nil {
			return err
		}
		for _, log := range logs {
			all = append(all, serviceLog{id, log})
		}
	}
	var errs []error
	say := func(format string, values ...any) {
		_, err := fmt.Fprintf(w, format+"\n", values...)
		errs = append(errs, err)
	}
	for _, log := range all {
		if len(all) > 1 {
			say("==> %s/%s (container %.12s) <==", log.of, log.Service, log.Container)
		}
		if log.Truncated {
			say("(older lines are cut off)")
		}
		for _, line := range log.Lines {
			say("%s", line)
		}
	}
	return errors.Join(errs...)
}

// serviceLog is the log of a service of a Deployment.
type serviceLog struct {
	of wire.DeploymentID
	wire.ServiceLog
}
