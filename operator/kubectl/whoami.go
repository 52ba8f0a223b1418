package kubectl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

func newWhoami(s *session) *cobra.Command {
	var store storeFlags
	output := &format{allowed: []string{formatJSON, formatYAML}}
	cmd := &cobra.Command{
		Use:   "whoami DEVICE",
		Short: "Show what a device may do, and what it has been refused",
		Long: `Show what a device may do: whether it is let in, which labels it may claim and which
were refused, and every subject at the broker that it may use, each with the reason.

` + whereDecided,
		Args:              arguments("DEVICE"),
		ValidArgsFunction: positional(s.deviceNames),
		RunE:              func(cmd *cobra.Command, args []string) error { return s.whoami(cmd.Context(), args[0], store, output) },
	}
	store.addTo(cmd)
	output.addTo(cmd)
	return cmd
}

// whoami prints what is known also when the policy cannot be read, and fails then.
func (s *session) whoami(ctx context.Context, device string, store storeFlags, output *format) error {
	id, err := wire.ParseDeviceID(device)
	if err != nil {
		return usageError{err}
	}
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	found, err := cluster.device(ctx, id)
	if err != nil {
		return fmt.Errorf("reading device %q: %w", id, err)
	}
	records, policyErr := s.records(ctx, id, store)
	if policyErr != nil && found == nil {
		return policyErr
	}
	if err := enrolled(id, found, records); err != nil {
		return err
	}
	r := newIdentity(id, found, records)
	if !output.isTable() {
		err = output.printValue(s.Out, r)
	} else {
		r.printSummary(s.Out, s.now())
		err = output.printTable(s.Out, r.table())
	}
	if err != nil {
		return err
	}
	return policyErr
}

// records are what is decided of the device; nil when that cannot be read, or the
// cluster has nothing and OpenBao was not asked.
func (s *session) records(ctx context.Context, id wire.DeviceID, o storeFlags) (*policy.Records, error) {
	told, err := s.published(ctx, o)
	if err != nil {
		return nil, err
	}
	store, _, err := s.store(o, told)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	records, err := store.Records(ctx, id)
	if err != nil {
		return nil, err
	}
	if told.policies == "" && !o.inOpenBao() && records.Policy == nil && records.Revocation == nil {
		fmt.Fprintln(s.ErrOut, "The cluster has no DevicePolicy of it. Where OpenBao keeps the policies: set BAO_ADDR, or --openbao-address.")
		return nil, nil
	}
	return &records, nil
}

// enrolled fails for a device that nobody knows.
func enrolled(id wire.DeviceID, found *v1alpha1.Device, records *policy.Records) error {
	switch {
	case found != nil:
		return nil
	case records == nil:
		return fmt.Errorf("device %s is not known: the cluster has neither a Device nor a DevicePolicy of that name", id)
	case records.Policy == nil && records.Revocation == nil:
		return fmt.Errorf("device %s is not enrolled: there is no policy of it, and the cluster has no Device", id)
	}
	return nil
}

// device is nil when the cluster has none of that id.
func (c *cluster) device(ctx context.Context, id wire.DeviceID) (*v1alpha1.Device, error) {
	found := &v1alpha1.Device{}
	err := c.rest.Get().Resource(devices).Name(string(id)).Do(ctx).Into(found)
	if isAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, explain(err)
	}
	return found, nil
}

// isAbsent tells a resource that is not there from an API that is not.
func isAbsent(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}
