package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/nationtech/harmony-fleet/operator/keys"
	"github.com/nationtech/harmony-fleet/operator/program"
)

const keysHelp = `Makes what an install needs that brings no credentials of its own, and keeps it
complete until it is stopped: the Secret of keys with these entries,

%s
and, with --tls-secret, a Secret with a certificate for the broker (tls.crt,
tls.key, ca.crt), which is issued anew in time. Entries that are there are kept;
one that cannot be read is told in the log, and nothing is changed then.

To replace a key, remove its two entries and restart the programs that read it.
For the key "signing" see docs/signing.md first: devices have to hear of a new one.`

// keysCommand is `fleet-operator keys`.
func keysCommand(kubeconfig *string) *cobra.Command {
	var (
		k         keys.Keeper
		namespace string
		once      bool
	)
	cmd := &cobra.Command{
		Use:   "keys --secret NAME [--tls-secret NAME --host HOST…]",
		Short: "Make the keys and the broker's certificate of an install that brings none",
		Long:  fmt.Sprintf(keysHelp, entries()),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if k.TLS != "" && len(k.Hosts) == 0 {
				return errors.New("--tls-secret needs a --host at least: a name or an address at which the broker is reached")
			}
			if namespace == "" {
				return errors.New("--namespace is missing, and so is $POD_NAMESPACE")
			}
			kube, err := program.KubeConfig(*kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(kube)
			if err != nil {
				return fmt.Errorf("preparing the client of the cluster: %w", err)
			}
			k.Secrets, k.Now, k.Log = client.CoreV1().Secrets(namespace), time.Now, program.Logger(cmd.ErrOrStderr(), "info")
			if once {
				return k.Ensure(cmd.Context())
			}
			k.Run(cmd.Context())
			return nil
		},
	}
	cmd.Flags().StringVar(&k.Keys, "secret", "harmony-fleet-keys", "`name` of the Secret of keys")
	cmd.Flags().BoolVar(&k.Brought, "brought", false, "somebody else makes the Secret of keys: wait for it")
	cmd.Flags().StringVar(&k.TLS, "tls-secret", "", "`name` of the Secret with the broker's certificate; without it, none is kept")
	cmd.Flags().StringArrayVar(&k.Hosts, "host", nil, "name or address at which the broker is reached; may be repeated")
	cmd.Flags().StringVar(&namespace, "namespace", os.Getenv("POD_NAMESPACE"), "`namespace` of the Secrets; default $POD_NAMESPACE")
	cmd.Flags().BoolVar(&once, "once", false, "look once, and end")
	return cmd
}

// entries lists what the Secret of keys holds, for the help.
func entries() string {
	var b strings.Builder
	for _, p := range keys.Pairs() {
		fmt.Fprintf(&b, "  %-14s %-13s nkey of the kind %s\n", p.Seed(), p.Public(), p.Kind)
	}
	fmt.Fprintf(&b, "  %-28s of the broker's user for people\n", keys.AdminPassword)
	fmt.Fprintf(&b, "  %-14s %-13s the authority of the broker's certificate\n", keys.AuthorityKey, keys.AuthorityCert)
	return b.String()
}
