package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Providers are where a cluster may come from.
var Providers = []string{"source", "existing", "kind", "k3d"}

// Choice is a provider and why it was chosen, for people.
type Choice struct{ Provider, Why string }

// Pick chooses the provider: who names a kubeconfig means that cluster; else kind or
// k3d where they can work, and source where they are missing. find is exec.LookPath.
func Pick(kubeconfig string, find func(program string) (path string, err error)) Choice {
	if kubeconfig != "" {
		return Choice{"existing", "a kubeconfig was given: " + kubeconfig}
	}
	var missing []string
	for _, program := range []string{"docker", "kind", "k3d"} {
		if _, err := find(program); err != nil {
			missing = append(missing, program)
		}
	}
	for _, name := range []string{"kind", "k3d"} {
		if !slices.Contains(missing, name) && !slices.Contains(missing, "docker") {
			return Choice{name, "PATH has docker and " + name}
		}
	}
	return Choice{"source", "PATH has no " + strings.Join(missing, ", no ")}
}

func newProvider(o Options) (provider, error) {
	switch o.Provider {
	case "source":
		return &source{}, nil
	case "existing":
		if o.Kubeconfig == "" {
			return nil, errors.New("the provider existing needs a kubeconfig: set KUBECONFIG")
		}
		return existing{kubeconfig: o.Kubeconfig, loader: o.Load}, nil
	case "kind":
		return &kind{}, nil
	case "k3d":
		return &k3d{}, nil
	}
	return nil, fmt.Errorf("there is no provider %q; it is one of %s", o.Provider, strings.Join(Providers, ", "))
}
