package stories

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
)

// workload is a Deployment of one service.
type workload struct {
	name    string
	group   string // of its devices; or several, with commas between
	image   string
	port    int // of the host; 0 for none
	devices int32
}

// apply applies it, as it is now.
func (i *installation) apply(ctx context.Context, w workload) error {
	ports := ""
	if w.port != 0 {
		ports = fmt.Sprintf(", ports: [{containerPort: 8080, hostPort: %d}]", w.port)
	}
	_, err := i.Kubectl(ctx, fmt.Sprintf(`apiVersion: fleet.nationtech.io/v1alpha1
kind: Deployment
metadata: {name: %s, namespace: default}
spec:
  targetSelector: {matchExpressions: [{key: group, operator: In, values: [%s]}]}
  score:
    podmanV0:
      services:
      - {name: web, image: %q%s}
`, w.name, w.group, w.image, ports), "apply", "--filename=-")
	return err
}

// settled waits until the status says that all its devices run this very version.
func (i *installation) settled(ctx context.Context, w workload) error {
	return i.counted(ctx, w, v1alpha1.Aggregate{MatchedDeviceCount: w.devices, Succeeded: w.devices})
}

// counted waits until the status of this very version says just that of its devices.
func (i *installation) counted(ctx context.Context, w workload, want v1alpha1.Aggregate) error {
	return eventually(ctx, func() error {
		d, err := i.deployment(ctx, w)
		if err != nil {
			return err
		}
		if d.Status.ObservedGeneration != d.Generation || d.Status.Aggregate != want {
			return fmt.Errorf("the status of %s, of generation %d, is %+v of %d; want %+v", w.name, d.Generation, d.Status.Aggregate, d.Status.ObservedGeneration, want)
		}
		return nil
	})
}

// deployment reads it.
func (i *installation) deployment(ctx context.Context, w workload) (d v1alpha1.Deployment, err error) {
	out, err := i.Kubectl(ctx, "", "get", "fdep", w.name, "--output=json")
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		return d, fmt.Errorf("reading the Deployment %s: %w", w.name, err)
	}
	return d, nil
}

// remove deletes it, and returns when it is gone.
func (i *installation) remove(ctx context.Context, w workload) error {
	_, err := i.Kubectl(ctx, "", "delete", "deployments.fleet.nationtech.io", w.name, "--timeout=2m")
	return err
}
