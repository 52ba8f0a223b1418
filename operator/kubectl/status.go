package kubectl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
)

func newStatus(s *session) *cobra.Command {
	output := &format{allowed: []string{formatJSON, formatYAML, formatWide}}
	cmd := &cobra.Command{
		Use:   "status DEPLOYMENT",
		Short: "Show how a Deployment does, device by device",
		Long: `Show how a Deployment does, device by device.

The counts come from the cluster. What each device says comes from the broker;
without --nats-url or FLEET_NATS_URL only the counts are shown.`,
		Args:              arguments("DEPLOYMENT"),
		ValidArgsFunction: positional(s.deploymentNames),
		RunE:              func(cmd *cobra.Command, args []string) error { return s.status(cmd.Context(), args[0], output) },
	}
	s.nats.addTo(cmd)
	output.addTo(cmd)
	return cmd
}

func (s *session) status(ctx context.Context, name string, output *format) error {
	namespace, err := s.namespace()
	if err != nil {
		return err
	}
	id, err := wire.ParseDeploymentID(namespace, name)
	if err != nil {
		return usageError{err}
	}
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	deployment, err := cluster.deployment(ctx, id)
	if err != nil {
		return fmt.Errorf("reading deployment %q: %w", id, err)
	}
	result := &report{
		Namespace: id.Namespace, Name: id.Name, Generation: deployment.Generation, Status: deployment.Status,
	}
	detailErr := s.detail(ctx, cluster, deployment, result)
	if output.isTable() {
		result.printSummary(s.Out, s.now())
		if len(result.Devices) > 0 {
			fmt.Fprintln(s.Out)
			if err := output.printTable(s.Out, result.table(s.now())); err != nil {
				return err
			}
		}
	} else if err := output.printValue(s.Out, result); err != nil {
		return err
	}
	return detailErr
}

// detail adds what each device says. Without a broker's address it says what to
// set and is no error: the counts are the cluster's own.
func (s *session) detail(ctx context.Context, c *cluster, d *v1alpha1.Deployment, into *report) error {
	if s.nats.url == "" {
		fmt.Fprintln(s.ErrOut, "What each device says comes from the broker: "+howToReachBroker)
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(&d.Spec.TargetSelector)
	if err != nil {
		return fmt.Errorf("reading the selector of deployment %q: %w", d.Name, err)
	}
	matched, err := c.devices(ctx, selector.String())
	if err != nil {
		return fmt.Errorf("listing the devices that match: %w", err)
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	states, err := conn.List(ctx, wire.DeviceStates, "*."+d.Namespace+"."+d.Name)
	if err != nil {
		return fmt.Errorf("reading what devices say: %w", err)
	}
	into.Devices, err = deviceReports(d, matched.Items, decodeStates(states))
	return err
}

// stateAt is what a device said, and when it reached the broker.
type stateAt struct {
	wire.DeviceState
	at time.Time
}

// decodeStates skips what cannot be read: such a device counts as one that has
// not reported, as it does for the operator.
func decodeStates(entries []bus.Entry) map[wire.DeviceID]stateAt {
	states := map[wire.DeviceID]stateAt{}
	for _, entry := range entries {
		id, _, keyErr := wire.ParseDeploymentKey(entry.Key)
		state, err := wire.DecodeDeviceState(entry.Value)
		if keyErr == nil && err == nil {
			states[id] = stateAt{state, entry.At}
		}
	}
	return states
}
