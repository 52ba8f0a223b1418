package kubectl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/enrol"
)

func newEnroll(s *session) *cobra.Command {
	o := &enrolOptions{output: &format{allowed: []string{formatJSON}}}
	cmd := &cobra.Command{
		Use:   "enroll DEVICE",
		Short: "Let a device into the fleet, by a command that is run on it once",
		Long: `Let a device into the fleet: writes its policy, and prints the command to run on it. The
device makes its key itself, and the command has that key written into the policy. It
works once, for one device, until --valid-for is over.

Devices that bring tokens of an OpenID provider are enrolled with --login token: that
writes the policy, and prints their configuration.

` + whereDecided + `

What devices are told the operator publishes, in the ConfigMap ` + config.PublishedName + `; where it does
not, or something else is right:

  FLEET_NATS_URL            or --url: where devices reach the broker
  FLEET_NATS_CA_FILE        or --ca-file, when devices do not trust it by themselves
  FLEET_TRUSTED_KEYS        or --trusted-key: the operator logs them when it starts`,
		Example: `  # a device that may say that it is in Berlin, and which group it is of
  kubectl fleet enroll pi-4 --label site=berlin --label 'group=*'

  # at once, where the device can be reached
  kubectl fleet enroll pi-4 | ssh pi-4 sudo sh`,
		Args: arguments("DEVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.enroll(cmd.Context(), args[0], o, (*enrol.Registry).Enrol)
		},
	}
	o.addTo(cmd)
	return cmd
}

func newReenroll(s *session) *cobra.Command {
	o := &enrolOptions{output: &format{allowed: []string{formatJSON}}}
	cmd := &cobra.Command{
		Use:   "re-enroll DEVICE",
		Short: "Give a device another key, or let a revoked one in again",
		Long: `Give a device another key: whoever has the old one is cut off and let in no more, a
revocation ends, and the command to run on the device is printed. Labels and networks
stay as they are unless they are given anew. Move the old configuration away on a
device that has one.

` + whereDecided,
		Args:              arguments("DEVICE"),
		ValidArgsFunction: positional(s.deviceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.enroll(cmd.Context(), args[0], o, (*enrol.Registry).Renew)
		},
	}
	o.addTo(cmd)
	return cmd
}

// enroll does what the two commands have in common.
func (s *session) enroll(ctx context.Context, device string, o *enrolOptions, do func(*enrol.Registry, context.Context, enrol.Request) (enrol.Ticket, error)) error {
	id, err := wire.ParseDeviceID(device)
	if err != nil {
		return usageError{err}
	}
	request, err := o.read(id)
	if err != nil {
		return usageError{err}
	}
	registry, told, err := s.registry(ctx, o.store)
	if err != nil {
		return err
	}
	defer registry.Store.Close()
	way, err := o.way(told)
	if err != nil {
		return usageError{err}
	}
	if registry.Cluster, err = s.cluster(); err != nil {
		return err
	}
	ticket, err := do(registry, ctx, request)
	if err != nil {
		return err
	}
	if o.login == loginToken {
		return s.printConfiguration(id, o, way)
	}
	return s.printCommand(ticket, o, way)
}

// issued is what -o json prints.
type issued struct {
	Device wire.DeviceID `json:"device"`
	// Command to run on the device before Expires, for one that has a key of its own.
	Command string    `json:"command,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	// Configuration of the agent, for a device that brings tokens of a provider.
	Configuration string `json:"configuration,omitempty"`
}

func (s *session) printCommand(ticket enrol.Ticket, o *enrolOptions, w way) error {
	command := w.command(ticket.Token)
	if !o.output.isTable() {
		return o.output.printValue(s.Out, issued{Device: ticket.Token.Device, Command: command, Expires: ticket.Expires})
	}
	fmt.Fprintf(s.ErrOut, "Run this on device %s as root before %s. It works once.\n", ticket.Token.Device, ticket.Expires.Local().Format(time.RFC1123))
	fmt.Fprintln(s.Out, command)
	fmt.Fprintln(s.ErrOut, describe(ticket.Policy))
	return nil
}

func (s *session) printConfiguration(id wire.DeviceID, o *enrolOptions, w way) error {
	text := w.configuration(id, o)
	if !o.output.isTable() {
		return o.output.printValue(s.Out, issued{Device: id, Configuration: text})
	}
	fmt.Fprint(s.Out, text)
	fmt.Fprintf(s.ErrOut, `
Above is /etc/fleet-agent/config.toml for device %s. It needs at the provider:
  1. a machine user %q whose access tokens are JWTs,
  2. the role "device" for it in the project %s, and no other of the fleet's roles,
  3. a key of it, saved on the device as %s with mode 0600.
When it had a key before, delete that one: it counts for as long as the provider knows it.
`, id, o.name(id), o.audience, keyFile)
	if w.ca != nil {
		fmt.Fprintf(s.ErrOut, "Copy %s to the device as %s.\n", w.caFrom, caFile)
	}
	return nil
}

// describe says what a policy lets the device do.
func describe(p policy.Policy) string {
	labels, sources := "It may claim no labels.", ""
	if len(p.Labels) > 0 {
		labels = "It may claim the labels " + formatLabels(p.Labels) + "."
	}
	if len(p.Sources) > 0 {
		sources = " It may connect from " + strings.Join(p.Sources, ", ") + "."
	}
	return labels + sources
}
