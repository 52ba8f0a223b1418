// Command fleet-operator runs in the cluster: it matches Deployments to Devices,
// writes what each device shall run to NATS, and reports how they do. It reads
// its flags and its configuration file, and package operator does the rest.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/operator"
	"github.com/nationtech/harmony-fleet/operator/program"
)

// version is set by the linker in releases.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet-operator:", err)
		os.Exit(1)
	}
}

const help = `fleet-operator is the part of Harmony Fleet that runs in the Kubernetes cluster.

It watches Deployments and Devices (fleet.nationtech.io), writes what each device
shall run to NATS JetStream, and reports in each Deployment's status how its
devices do. Several replicas may run: the one that holds the Lease works.

The configuration is a YAML file; what it leaves out has a default:

%s
Probes:  /healthz and /readyz at probeAddress. /readyz?verbose tells on which
         check it fails, and the log says why: the custom resource definitions
         are not those of this release, or the broker's streams are not fit.
Metrics: /metrics at metricsAddress; names begin with fleet_.`

func command() *cobra.Command {
	var configFile, kubeconfig string
	cmd := &cobra.Command{
		Use:           "fleet-operator --config FILE",
		Short:         "Run the fleet's operator",
		Long:          fmt.Sprintf(help, program.Example(example())),
		Args:          cobra.NoArgs,
		Version:       program.Version(version),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := program.ReadConfig(configFile, config.OperatorDefaults())
			if err != nil {
				return err
			}
			kube, err := program.KubeConfig(kubeconfig)
			if err != nil {
				return err
			}
			log := program.Logger(cmd.ErrOrStderr(), c.LogLevel)
			return operator.Run(cmd.Context(), kube, c, operator.Options{Log: log, Version: program.Version(version)})
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "/etc/fleet-operator/config.yaml", "configuration `file`")
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig `file`; without it, $KUBECONFIG or the pod's service account is used")
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.AddCommand(keysCommand(&kubeconfig), checkCommand())
	return cmd
}

// example is a configuration with the defaults and the fields that have none.
func example() config.OperatorConfig {
	c := config.OperatorDefaults()
	c.NATS.URLs = []string{"tls://nats.fleet-system.svc:4222"}
	c.Credentials = config.Credentials{Type: config.CredentialPassword, User: "operator", PasswordFile: "/etc/fleet-operator/password"}
	c.Signing.KeyFiles = []string{"/etc/fleet-operator/signing.seed"}
	return c
}
