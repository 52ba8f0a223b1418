package kubectl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

func newRevoke(s *session) *cobra.Command {
	var store storeFlags
	var reason string
	cmd := &cobra.Command{
		Use:   "revoke DEVICE",
		Short: "Cut a device off and keep it out",
		Long: `Cut a device off and keep it out. It goes on with what it runs, and hears and reports
nothing more. re-enroll lets it in again, with a new key.

` + whereDecided,
		Args:              arguments("DEVICE"),
		ValidArgsFunction: positional(s.deviceNames),
		RunE:              func(cmd *cobra.Command, args []string) error { return s.revoke(cmd.Context(), args[0], reason, store) },
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever looks at it later")
	store.addTo(cmd)
	return cmd
}

func (s *session) revoke(ctx context.Context, device, reason string, store storeFlags) error {
	id, err := wire.ParseDeviceID(device)
	if err != nil {
		return usageError{err}
	}
	registry, _, err := s.registry(ctx, store)
	if err != nil {
		return err
	}
	defer registry.Store.Close()
	already, err := registry.Revoke(ctx, id, reason)
	if err != nil {
		return err
	}
	if already != nil {
		fmt.Fprintf(s.Out, "device %s is revoked already (%s)\n", id, already)
		return nil
	}
	fmt.Fprintf(s.Out, "device %s revoked\n", id)
	fmt.Fprintf(s.ErrOut, `Its connections are cut within seconds, and it is let in no more. What it runs it goes on running.
  kubectl fleet re-enroll %[1]s   lets it in again, with a new key
  kubectl fleet remove %[1]s      frees the id
`, id)
	return nil
}

func newRemove(s *session) *cobra.Command {
	var store storeFlags
	cmd := &cobra.Command{
		Use:   "remove DEVICE",
		Short: "Remove a device from the fleet, so that its id is free",
		Long: `Remove a device from the fleet, so that its id is free for another one, which inherits
nothing: its policy, its Device and all that the broker has of it are deleted. The
device itself goes on with what it runs.

That takes some minutes, because the operator waits until the device is silent. It may
be interrupted: the device stays revoked, and the command goes on when it is run again.

` + whereDecided,
		Args:              arguments("DEVICE"),
		ValidArgsFunction: positional(s.deviceNames),
		RunE:              func(cmd *cobra.Command, args []string) error { return s.remove(cmd.Context(), args[0], store) },
	}
	store.addTo(cmd)
	s.nats.addTo(cmd)
	return cmd
}

func (s *session) remove(ctx context.Context, device string, store storeFlags) error {
	id, err := wire.ParseDeviceID(device)
	if err != nil {
		return usageError{err}
	}
	registry, _, err := s.registry(ctx, store)
	if err != nil {
		return err
	}
	defer registry.Store.Close()
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	registry.Cluster, registry.Broker = cluster, remembering{conn}
	if err := registry.Remove(ctx, id); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "device %s removed\n", id)
	fmt.Fprintln(s.ErrOut, "Its id is free. A machine user of that name at your OpenID provider, if there is one, is yours to delete.")
	return nil
}
