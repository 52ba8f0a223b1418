package kubectl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/bus"
)

func newPing(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ping DEVICE",
		Short:             "Ask a device's agent for a sign of life",
		Args:              arguments("DEVICE"),
		ValidArgsFunction: positional(s.deviceNames),
		RunE:              func(cmd *cobra.Command, args []string) error { return s.ping(cmd.Context(), args[0]) },
	}
	s.nats.addTo(cmd)
	return cmd
}

func newLogs(s *session) *cobra.Command {
	var request wire.LogsRequest
	cmd := &cobra.Command{
		Use:               "logs DEVICE DEPLOYMENT",
		Short:             "Print the last lines that a Deployment's containers wrote on a device",
		Args:              arguments("DEVICE", "DEPLOYMENT"),
		ValidArgsFunction: positional(s.deviceNames, s.deploymentNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Deployment = args[1]
			return s.logs(cmd.Context(), args[0], request)
		},
	}
	cmd.Flags().StringVar(&request.Service, "service", "", "only this service of the Deployment")
	cmd.Flags().IntVar(&request.Lines, "tail", wire.DefaultLogLines, fmt.Sprintf("lines of each container, at most %d", wire.MaxLogLines))
	s.nats.addTo(cmd)
	return cmd
}

func (s *session) ping(ctx context.Context, device string) error {
	begin := s.now()
	reply, err := ask[wire.PingReply](ctx, s, device, command{verb: wire.VerbPing})
	if err != nil {
		return err
	}
	if reply.Error != nil {
		return fmt.Errorf("device %s: %w", device, reply.Error)
	}
	fmt.Fprintf(s.Out, "device %s answers after %s: agent %s, up for %s, desired state of generation %d\n", device,
		s.now().Sub(begin).Round(100*time.Microsecond), reply.AgentVersion, time.Duration(reply.UptimeSeconds)*time.Second, reply.Generation)
	return nil
}

func (s *session) logs(ctx context.Context, device string, request wire.LogsRequest) (err error) {
	if request.Namespace, err = s.namespace(); err != nil {
		return err
	}
	body, err := request.Encode()
	if err != nil {
		return err
	}
	if request.Lines < 1 {
		return usagef("--tail: want 1 to %d lines", wire.MaxLogLines)
	}
	if _, err := wire.DecodeLogsRequest(body); err != nil {
		return usageError{err} // what the agent would answer, without the way
	}
	reply, err := ask[wire.LogsReply](ctx, s, device, command{wire.VerbLogs, body})
	if err != nil {
		return err
	}
	if reply.Error != nil {
		return fmt.Errorf("device %s: %w", device, reply.Error)
	}
	printLogs(s.Out, s.ErrOut, reply.Logs)
	return nil
}

// printLogs writes the lines alone when there is one container, and a heading
// above each when there are several.
func printLogs(out, notes io.Writer, logs []wire.ServiceLog) {
	for _, log := range logs {
		if len(logs) > 1 {
			fmt.Fprintf(out, "==> %s (container %.12s) <==\n", log.Service, log.Container)
		}
		if log.Truncated {
			fmt.Fprintf(notes, "older lines of %s are cut off\n", log.Service)
		}
		for _, line := range log.Lines {
			fmt.Fprintln(out, wire.CleanText(line, len(line)))
		}
	}
}

type command struct {
	verb wire.Verb
	body []byte
}

// ask sends a command to a device over a connection of its own. That nobody
// listens is told as what it is, a device that is offline.
func ask[R wire.Reply](ctx context.Context, s *session, device string, c command) (R, error) {
	var none R
	id, err := wire.ParseDeviceID(device)
	if err != nil {
		return none, usageError{err}
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return none, err
	}
	defer conn.Close()
	answer, err := conn.Request(ctx, id, c.verb, c.body)
	if errors.Is(err, bus.ErrDeviceOffline) {
		return none, fmt.Errorf("device %s is offline: no agent answers on the broker", id)
	}
	if err != nil {
		return none, fmt.Errorf("asking device %s: %w", id, err)
	}
	reply, err := wire.DecodeReply[R](answer)
	if err != nil {
		return none, fmt.Errorf("reading the answer of device %s: %w", id, err)
	}
	return reply, nil
}
