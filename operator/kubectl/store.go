package kubectl

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/operator/enrol"
	"github.com/nationtech/harmony-fleet/operator/openbao"
	"github.com/nationtech/harmony-fleet/operator/roster"
)

// storeFlags say where the policies of devices are kept. The token is no flag:
// every user of the machine can read command lines.
type storeFlags struct{ address, mount, namespace string }

// whereDecided is part of the help of what reads policies.
const whereDecided = `Policies of devices are DevicePolicies in the cluster, read and written with your
kubeconfig. Where OpenBao keeps them, it is reached as its own command does: BAO_ADDR,
BAO_CACERT and BAO_TOKEN (or VAULT_ instead of BAO_), with the token of the last
` + "`bao login`" + ` when none is set.`

func (o *storeFlags) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.address, "openbao-address", "", "address of OpenBao, where it keeps the policies (default BAO_ADDR)")
	f.StringVar(&o.mount, "openbao-mount", config.OpenBaoDefaults().Mount, "where OpenBao's engine with the policies is mounted")
	f.StringVar(&o.namespace, "fleet-namespace", fleetNamespace(), "namespace of the operator, which publishes there what devices are to be told")
}

// fleetNamespace is where the operator is unless somebody says otherwise.
func fleetNamespace() string {
	return cmp.Or(os.Getenv("FLEET_NAMESPACE"), config.OperatorDefaults().LeaderElection.Namespace)
}

// inOpenBao reports whether there is an OpenBao to ask.
func (o *storeFlags) inOpenBao() bool {
	return o.address != "" || os.Getenv("BAO_ADDR") != "" || os.Getenv("VAULT_ADDR") != ""
}

// store is where this fleet keeps its policies; entities is nil without OpenBao.
// Close the store. What the operator published tells of mistakes: a device that is
// enrolled in the wrong place is refused, and nothing says why.
func (s *session) store(o storeFlags, told *published) (store enrol.Store, entities enrol.Entities, err error) {
	if o.inOpenBao() {
		if told.policies == config.PoliciesInCluster {
			return nil, nil, usagef("the cluster keeps the policies of this fleet, as its operator says: unset BAO_ADDR and VAULT_ADDR, and leave --openbao-address out")
		}
		admin, err := openbao.NewAdmin(o.address, o.mount)
		if err != nil {
			return nil, nil, usageError{err}
		}
		return admin, admin, nil
	}
	if told.policies == config.PoliciesInOpenBao {
		return nil, nil, usagef("OpenBao keeps the policies of this fleet, as its operator says: set BAO_ADDR or --openbao-address")
	}
	kube, err := s.kubeconfig()
	if err != nil {
		return nil, nil, err
	}
	admin, err := roster.NewAdmin(kube)
	return admin, nil, err
}

// registry works with the person's own rights; close its store.
func (s *session) registry(ctx context.Context, o storeFlags) (*enrol.Registry, *published, error) {
	told, err := s.published(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	store, entities, err := s.store(o, told)
	if err != nil {
		return nil, nil, err
	}
	return &enrol.Registry{
		Store: store, Entities: entities, Now: s.now, Wait: wait,
		Tell: func(text string) { fmt.Fprintln(s.ErrOut, text) },
	}, told, nil
}
