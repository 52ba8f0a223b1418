package stories

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	release "github.com/nationtech/harmony-fleet/release/images"
	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/release/version"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/helm"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// previous is the release before the one that this tree will be.
type previous struct {
	// archive of its chart.
	archive string
	// tag of its images: its version may still be this tree's.
	tag string
}

// lateField is a field of Deployments that the previous release is made to lack, as
// no definition has got a field since there is a chart.
const lateField = "paused"

// importPrevious makes the previous release's images known to the cluster. They and
// the chart are built from its commit once; the broker's and NACK's images are those
// that this tree's chart names.
func importPrevious(ctx context.Context, c *cluster.Cluster, tree source.Source) (previous, error) {
	const commit = version.Previous
	p := previous{tag: commit[:12]}
	dir, err := tools.Cached(ctx, "previous-"+p.tag, func(dir string) error {
		fmt.Fprintf(c.Progress(), "building the previous release, commit %s\n", p.tag)
		return buildPrevious(ctx, c, tree, dir)
	})
	if err != nil {
		return p, fmt.Errorf("building the previous release: %w", err)
	}
	for _, image := range release.Released {
		name := published + "/" + image.Name + ":" + p.tag
		if err := c.ImportLayout(ctx, filepath.Join(dir, image.Name), name); err != nil {
			return p, err
		}
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return p, fmt.Errorf("the previous release in %s has the charts %v, want one: %w", dir, archives, err)
	}
	p.archive = archives[0]
	return p, nil
}

// cutOff says that the tree is a clone with the last part of the history alone, in which
// the previous release is not.
func cutOff(ctx context.Context, root string) bool {
	shallow, err := exec.CommandContext(ctx, "git", "-C", root, "rev-parse", "--is-shallow-repository").Output()
	there := exec.CommandContext(ctx, "git", "-C", root, "cat-file", "-e", version.Previous+"^{commit}").Run()
	return err == nil && strings.TrimSpace(string(shallow)) == "true" && there != nil
}

// buildPrevious leaves an OCI layout of each image and the packed chart in dir.
func buildPrevious(ctx context.Context, c *cluster.Cluster, tree source.Source, dir string) error {
	old, err := checkout(ctx, tree.Root, filepath.Join(dir, "tree"))
	if err != nil {
		return err
	}
	made, err := release.Build{
		Images: release.Released, Architectures: []string{runtime.GOARCH}, Source: old, Progress: c.Progress(),
	}.Make(ctx)
	if err != nil {
		return err
	}
	for _, m := range made {
		folder, err := layout.Write(filepath.Join(dir, m.Name), empty.Index)
		if err == nil {
			err = folder.AppendIndex(m.Index)
		}
		if err != nil {
			return fmt.Errorf("writing the image %s: %w", m.Name, err)
		}
	}
	chart := filepath.Join(old.Root, "charts", product)
	if err := cutField(filepath.Join(chart, "templates", "crds.yaml"), lateField); err != nil {
		return err
	}
	if _, err := helm.Pack(chart, dir); err != nil {
		return err
	}
	return os.RemoveAll(old.Root)
}

// checkout makes a clone of the tree, in the folder, with the previous release's
// commit checked out.
func checkout(ctx context.Context, root, folder string) (source.Source, error) {
	const commit = version.Previous
	for _, args := range [][]string{
		{"-C", root, "cat-file", "-e", commit + "^{commit}"},
		{"clone", "--quiet", "--shared", "--no-checkout", root, folder},
		{"-C", folder, "checkout", "--quiet", "--detach", commit},
	} {
		if out, err := exec.CommandContext(ctx, "git", args...).CombinedOutput(); err != nil {
			return source.Source{}, fmt.Errorf("checking out commit %s, which release/version names: %w: %s",
				commit, err, bytes.TrimSpace(out))
		}
	}
	return source.Read(ctx, folder)
}

// cutField takes a field and what is below it out of a file with definitions. The
// file is a template, so it is read by its lines.
func cutField(file, field string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("taking the field %s out of a definition: %w", field, err)
	}
	var kept strings.Builder
	cut, inside := 0, -1 // how far the field is indented
	for line := range strings.Lines(string(data)) {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		if indent <= inside && strings.TrimSpace(line) != "" {
			inside = -1
		}
		if strings.TrimSpace(line) == field+":" {
			cut, inside = cut+1, indent
		}
		if inside < 0 {
			kept.WriteString(line)
		}
	}
	if cut != 1 {
		return fmt.Errorf("%s has the field %s %d times, want once", file, field, cut)
	}
	return os.WriteFile(file, []byte(kept.String()), 0o600)
}
