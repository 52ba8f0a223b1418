package stories

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// docs follows docs/install.md with Helm: its blocks are run as they stand, by a
// shell that finds the charts beside it.
func docs(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) error {
		if err := i.supply(ctx); err != nil {
			return err
		}
		r, err := i.read(ctx, "docs/install.md", tools.Helm)
		if err != nil {
			return err
		}
		for _, step := range []struct {
			what string
			run  func() error
		}{
			{"With Helm: it is installed, and helm test finds that it works", func() error { return r.follow(ctx, "With Helm", 0) }},
			{"Let devices in: the values are taken", func() error { return r.letIn(ctx) }},
			{"Remove: what people and devices own stays", func() error {
				if err := r.follow(ctx, "Remove", 0); err != nil {
					return err
				}
				_, err := i.Kubectl(ctx, "", "--namespace="+namespace, "get", "secret/"+product+"-keys", "stream/"+product+"-desired-state")
				return err
			}},
			{"and then goes too", func() error {
				if err := r.follow(ctx, "Remove", 1); err != nil {
					return err
				}
				return r.nothingLeft(ctx)
			}},
		} {
			if err := i.Step(step.what, step.run); err != nil {
				return err
			}
		}
		return nil
	})
}

// letIn changes the installation by the document's values.
func (r *reader) letIn(ctx context.Context) error {
	const section = "Let devices in"
	if err := os.WriteFile(filepath.Join(r.dir, "values.yaml"), []byte(r.block(section, 0)), 0o600); err != nil {
		return err
	}
	if err := r.follow(ctx, section, 1); err != nil {
		return err
	}
	return r.until(ctx, "tls://nats.example.com:4222", "--namespace="+namespace, "get", "configmap", "fleet-public", "--output=jsonpath={.data.natsURL}")
}

// ours are names of what is the whole cluster's.
var ours = regexp.MustCompile(`(?m)^.*(/fleet-downgrades|/harmony-fleet|\.fleet\.nationtech\.io|\.jetstream\.nats\.io).*$`)

// nothingLeft looks for what is in no namespace; the namespace is gone.
func (r *reader) nothingLeft(ctx context.Context) error {
	const kinds = "customresourcedefinitions,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
	all, err := r.Kubectl(ctx, "", "get", kinds, "--output=name")
	if left := ours.FindAllString(all, -1); err == nil && left != nil {
		err = fmt.Errorf("there is still %s", left)
	}
	return err
}
