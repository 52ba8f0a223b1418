package stories

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	release "github.com/nationtech/harmony-fleet/release/images"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/images"
)

// published is where the chart's defaults have the fleet's images; nobody asks it,
// since the nodes have them.
const published = "registry.example/harmony-fleet"

// importProduct makes the images known to the cluster that the chart's defaults
// name: those of a release, built from this tree for this machine, and the broker's
// and NACK's.
func importProduct(ctx context.Context, c *cluster.Cluster, tree source.Source) error {
	if err := importReleased(ctx, c, tree, version.Number); err != nil {
		return err
	}
	for _, build := range []func() (images.Upstream, error){
		func() (images.Upstream, error) { return images.NATS(ctx, c.Progress()) },
		func() (images.Upstream, error) { return images.NACK(ctx, c.Progress()) },
	} {
		upstream, err := build()
		if err != nil {
			return err
		}
		if err := importIndex(ctx, c, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: upstream.Image}), upstream.Name); err != nil {
			return err
		}
	}
	return nil
}

// importReleased does so with the images of a release alone, and a tag.
func importReleased(ctx context.Context, c *cluster.Cluster, tree source.Source, tag string) error {
	made, err := release.Build{
		Images: release.Released, Architectures: []string{runtime.GOARCH}, Source: tree, Progress: c.Progress(),
	}.Make(ctx)
	if err != nil {
		return err
	}
	for _, m := range made {
		if err := importIndex(ctx, c, m.Index, published+"/"+m.Name+":"+tag); err != nil {
			return err
		}
	}
	return nil
}

// importIndex makes an image known to the cluster, by the name that a pod has it.
func importIndex(ctx context.Context, c *cluster.Cluster, index v1.ImageIndex, as string) error {
	full, err := reference.ParseNormalizedNamed(as)
	if err != nil {
		return fmt.Errorf("reading the image name %q: %w", as, err)
	}
	dir, err := os.MkdirTemp("", "fleet-story-")
	if err != nil {
		return fmt.Errorf("making a temporary folder: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what is left of it does no harm
	folder, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = folder.AppendIndex(index)
	}
	if err != nil {
		return fmt.Errorf("writing the image %s: %w", as, err)
	}
	return c.ImportLayout(ctx, dir, full.String())
}
