package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nationtech/harmony-fleet/operator/check"
)

const checkHelp = `Asks from inside the cluster whether an install works, as the pod of ` + "`helm test`" + `
does, and tries again until it does: a pod of the operator and one of the callout are
ready, and the broker shows a certificate of the authority and refuses a stranger.
It needs no credentials and no rights. What has no flag is not asked.`

// checkCommand is `fleet-operator check`.
func checkCommand() *cobra.Command {
	var (
		i       check.Installation
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "check --operator URL --callout URL --broker HOST:PORT",
		Short: "Ask whether an install works, as `helm test` does",
		Long:  checkHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			i.Tell = func(text string) { fmt.Fprintln(cmd.OutOrStdout(), text) }
			return i.Run(ctx)
		},
	}
	cmd.Flags().StringVar(&i.Operator, "operator", "", "`URL` at the operator's Service, such as its metrics")
	cmd.Flags().StringVar(&i.Callout, "callout", "", "`URL` at the callout's Service")
	cmd.Flags().StringVar(&i.Broker, "broker", "", "`host and port` of the broker")
	cmd.Flags().StringVar(&i.CAFile, "ca-file", "", "`file` with the authority of the broker's certificate")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "time after which it gives up")
	return cmd
}
