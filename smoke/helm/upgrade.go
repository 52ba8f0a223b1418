package helm

import (
	"context"
	"fmt"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
)

// Upgrade puts the archive of a chart, with these values and none of before, in the
// place of what the release is, and waits until all of it is ready.
func (c *Client) Upgrade(ctx context.Context, release, archive string, values map[string]any) error {
	chart, err := loader.Load(archive)
	if err != nil {
		return fmt.Errorf("reading the chart %s: %w", archive, err)
	}
	upgrade := action.NewUpgrade(c.config)
	upgrade.Namespace, upgrade.ResetValues = c.namespace, true
	upgrade.Wait, upgrade.Timeout = true, patience
	if _, err := upgrade.RunWithContext(ctx, release, chart, values); err != nil {
		return fmt.Errorf("helm upgrade %s: %w", release, err)
	}
	return nil
}

// Rollback puts an earlier revision of the release in its place, and waits until all
// of it is ready.
func (c *Client) Rollback(release string, revision int) error {
	rollback := action.NewRollback(c.config)
	rollback.Version, rollback.Wait, rollback.Timeout = revision, true, patience
	if err := rollback.Run(release); err != nil {
		return fmt.Errorf("helm rollback %s %d: %w", release, revision, err)
	}
	return nil
}
