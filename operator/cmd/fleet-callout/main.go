// Command fleet-callout decides for the broker who may connect. It reads its flags
// and its configuration file, and packages callout, roster and openbao do the rest.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/operator/callout"
	"github.com/nationtech/harmony-fleet/operator/openbao"
	"github.com/nationtech/harmony-fleet/operator/program"
	"github.com/nationtech/harmony-fleet/operator/roster"
)

// version is set by the linker in releases.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet-callout:", err)
		os.Exit(1)
	}
}

const help = `fleet-callout decides for the NATS broker who may connect, and as what.

A device signs with a key of its own, or brings a token of the OpenID provider, where
there is one; people bring tokens. A device that joins brings a token of enrolment,
and its key is written into its policy, once. The cluster has the policies of
devices, as DevicePolicies, or OpenBao, where its address is set, and so they say
which devices are revoked: their connections are cut within seconds. Any number of
replicas may run.

The configuration is a YAML file; what it leaves out has a default:

%s
Probes:  /healthz and /readyz at probeAddress.
Metrics: /metrics at metricsAddress; names begin with fleet_callout_.`

func command() *cobra.Command {
	var file, kubeconfig string
	cmd := &cobra.Command{
		Use:           "fleet-callout --config FILE",
		Short:         "Decide for the broker who may connect",
		Long:          fmt.Sprintf(help, program.Example(example())),
		Args:          cobra.NoArgs,
		Version:       program.Version(version),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := program.ReadConfig(file, config.CalloutDefaults())
			if err != nil {
				return err
			}
			return run(cmd, c, kubeconfig)
		},
	}
	cmd.Flags().StringVar(&file, "config", "/etc/fleet-callout/config.yaml", "configuration `file`")
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig `file`; without it, $KUBECONFIG or the pod's service account is used; not needed with OpenBao")
	return cmd
}

// run works until the command's context ends.
func run(cmd *cobra.Command, c config.CalloutConfig, kubeconfig string) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	log := program.Logger(cmd.ErrOrStderr(), c.LogLevel)
	policies, err := open(c, kubeconfig, log)
	if err != nil {
		return err
	}
	defer policies.Close()
	provider, err := client(c.OIDC.CAFile)
	if err != nil {
		return err
	}
	service, err := callout.New(callout.Options{Config: c, Policies: policies, Enrolments: policies, Provider: provider, Log: log, Now: time.Now})
	if err != nil {
		return err
	}
	ready := func() error { return cmp.Or(policies.Ready(), service.Ready()) }
	if err := serve(ctx, c, service.Collector(), ready); err != nil {
		return err
	}
	var watching sync.WaitGroup
	watching.Go(func() { policies.Run(ctx, service.Cut) })
	defer watching.Wait()
	defer cancel()
	return service.Run(ctx)
}

// store is where the policies of devices are kept.
type store interface {
	callout.Policies
	callout.Enrolments
	// Run keeps up with them until ctx ends, and calls cut with the devices that may
	// no longer be connected.
	Run(ctx context.Context, cut func([]wire.DeviceID))
	Ready() error
	Close()
}

// open opens the store that the configuration names, and tells which that is.
func open(c config.CalloutConfig, kubeconfig string, log logr.Logger) (store, error) {
	if c.OpenBao.Address != "" {
		log.Info("OpenBao keeps the policies of devices", "address", c.OpenBao.Address)
		return openbao.New(openbao.Options{Config: c.OpenBao, Log: log.WithName("openbao"), Now: time.Now})
	}
	kube, err := program.KubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("%w; or set openbao.address, where OpenBao keeps the policies of devices", err)
	}
	log.Info("the cluster keeps the policies of devices, as DevicePolicies", "address", kube.Host)
	return roster.New(roster.Options{Kube: kube, Config: c.Roster, Log: log.WithName("roster"), Now: time.Now})
}

// serve serves the probes and the metrics.
func serve(ctx context.Context, c config.CalloutConfig, collector prometheus.Collector, ready func() error) error {
	registry := prometheus.NewRegistry()
	if err := registry.Register(collector); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	metrics, probes := http.NewServeMux(), http.NewServeMux()
	metrics.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	probes.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	probes.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok"))
	})
	if err := program.Serve(ctx, c.MetricsAddress, metrics); err != nil {
		return fmt.Errorf("metricsAddress: %w", err)
	}
	if err := program.Serve(ctx, c.ProbeAddress, probes); err != nil {
		return fmt.Errorf("probeAddress: %w", err)
	}
	return nil
}

// client speaks to the provider, and trusts the certificates of a file instead of
// the system's when one is named.
func client(caFile string) (*http.Client, error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute}
	if caFile != "" {
		certificates, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("oidc: caFile: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(certificates) {
			return nil, errors.New("oidc: caFile: " + caFile + " holds no certificate in PEM")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport, Timeout: 3 * time.Second}, nil
}

// example is a configuration with the defaults and the fields that have none.
func example() config.CalloutConfig {
	c := config.CalloutDefaults()
	c.NATS.URLs = []string{"tls://nats.fleet-system.svc:4222"}
	c.Credentials = config.Credentials{Type: config.CredentialNKey, SeedFile: "/etc/fleet-callout/user.seed"}
	c.IssuerKeyFile, c.XKeyFile = "/etc/fleet-callout/issuer.seed", "/etc/fleet-callout/x.seed"
	c.OIDC.Issuer, c.OIDC.Audience = "https://sso.example.com", "312345678901234567"
	c.OpenBao.Address = "https://openbao.example.com:8200"
	return c
}
