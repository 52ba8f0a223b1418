package kubectl

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func newDevices(s *session) *cobra.Command {
	var selector string
	output := &format{allowed: []string{formatJSON, formatYAML, formatWide, formatName}}
	cmd := &cobra.Command{
		Use:     "devices",
		Aliases: []string{"device"},
		Short:   "List the devices of the fleet",
		Example: `  # which devices would a Deployment with this selector run on?
  kubectl fleet devices -l 'group in (a,b),!canary' -o wide`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.devices(cmd.Context(), selector, output) },
	}
	cmd.Flags().StringVarP(&selector, "selector", "l", "", "only devices with these labels")
	output.addTo(cmd)
	return cmd
}

func (s *session) devices(ctx context.Context, selector string, output *format) error {
	if _, err := labels.Parse(selector); err != nil {
		return usagef("--selector: %w", err)
	}
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	list, err := cluster.devices(ctx, selector)
	if err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	switch {
	case output.value == formatName:
		for _, d := range list.Items {
			fmt.Fprintf(s.Out, "device.%s/%s\n", v1alpha1.Group, d.Name)
		}
		return nil
	case !output.isTable():
		return output.printValue(s.Out, list)
	case len(list.Items) == 0:
		fmt.Fprintln(s.ErrOut, "No devices found.")
		return nil
	}
	return output.printTable(s.Out, deviceTable(list.Items, s.now()))
}

// deviceTable has a row for each device.
func deviceTable(list []v1alpha1.Device, now time.Time) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: columns(7, "Device", "Reachable", "Since", "Problem", "Arch", "OS", "Podman", "Agent", "Labels")}
	for _, d := range list {
		inventory := wire.Inventory{}
		if d.Spec.Inventory != nil {
			inventory = *d.Spec.Inventory
		}
		reachable, since := reachability(d, now)
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{
			d.Name, reachable, since, problem(d),
			cmp.Or(inventory.Architecture, unknown), cmp.Or(inventory.OperatingSystem, unknown),
			cmp.Or(inventory.PodmanVersion, unknown), cmp.Or(inventory.AgentVersion, unknown),
			labels.FormatLabels(d.Labels),
		}})
	}
	return table
}

// problem is what a person has to look into, or why a device does not follow; none for
// most devices.
func problem(d v1alpha1.Device) string {
	if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionIdentityConflict); c != nil && c.Status == metav1.ConditionTrue {
		return c.Reason
	}
	if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionHeld); c != nil {
		return c.Reason
	}
	return none
}

// reachability is the status of the device's condition and the time since it
// changed.
func reachability(d v1alpha1.Device, now time.Time) (status, since string) {
	condition := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionReachable)
	if condition == nil {
		return string(metav1.ConditionUnknown), unknown
	}
	return string(condition.Status), age(condition.LastTransitionTime.Time, now)
}
