package kubectl

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// openbaoFlags say where the policies of devices are kept. The token is no flag:
// every user of the machine can read command lines.
type openbaoFlags struct{ address, mount string }

// howToReachOpenBao is part of the help of what reads policies.
const howToReachOpenBao = `OpenBao is reached as its own command does: BAO_ADDR, BAO_CACERT and BAO_TOKEN (or
VAULT_ instead of BAO_), with the token of the last ` + "`bao login`" + ` when none is set.`

func (o *openbaoFlags) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.address, "openbao-address", "", "address of OpenBao (default BAO_ADDR)")
	f.StringVar(&o.mount, "openbao-mount", v1alpha1.OpenBaoDefaults().Mount, "where the engine with the policies is mounted")
}

// set reports whether there is an OpenBao to ask.
func (o *openbaoFlags) set() bool {
	return o.address != "" || os.Getenv("BAO_ADDR") != "" || os.Getenv("VAULT_ADDR") != ""
}
