package cluster

import (
	"context"
	"errors"

	"github.com/nationtech/harmony-fleet/smoke/steps"
)

// existing is somebody's cluster. loader is the command that puts images on its nodes,
// "" where there is none.
type existing struct{ kubeconfig, loader string }

func (e existing) up(context.Context, *steps.Journal) (string, error) { return e.kubeconfig, nil }
func (e existing) down() error                                        { return nil }

func (e existing) load(ctx context.Context, archive string) error {
	if e.loader == "" {
		return errors.New("name the command that puts an archive of images on the nodes of an existing cluster, such as LOAD='minikube image load'")
	}
	return run(ctx, "sh", "-c", e.loader+` "$0"`, archive)
}
