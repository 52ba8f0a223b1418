package cluster

import (
	"context"
	"errors"

	"github.com/nationtech/harmony-fleet/smoke/steps"
)

// existing is somebody's cluster. Nobody can put images on its nodes from here.
type existing struct{ kubeconfig string }

func (e existing) up(context.Context, *steps.Journal) (string, error) { return e.kubeconfig, nil }
func (e existing) down() error                                        { return nil }

func (e existing) load(context.Context, string) error {
	return errors.New("an existing cluster takes no images from here: push them to a registry that it reaches")
}
