package stories

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/nationtech/harmony-fleet/smoke/argocd"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// The Applications of docs/argocd.md.
const (
	fleetApp     = product
	workloadsApp = "workloads"
)

// nextTag is one that the fleet's images have in addition, for an upgrade.
const nextTag = "next"

// gitops has Argo CD install the fleet from git, as docs/argocd.md says: once the
// chart, which then goes through what happens to an installation, once the base.
func gitops(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) (err error) {
		g := &gitOps{installation: i}
		defer func() { err = errors.Join(err, g.stop()) }()
		for _, chapter := range []func(context.Context) error{g.prepare, g.chart, g.base} {
			if err := chapter(ctx); err != nil {
				return g.diagnose(ctx, err)
			}
		}
		return c.Step("Argo CD is removed", func() error { return g.argo.Remove(ctx) })
	})
}

// gitOps is an installation that follows git.
type gitOps struct {
	*installation
	argo      *argocd.ArgoCD
	git       argocd.Repository
	documents documents
	machine   *machine
	forward   *cluster.Forward
	made      int // Devices that never connect
}

// stop ends what is not in the cluster.
func (g *gitOps) stop() error {
	err := g.leave()
	if g.argo != nil {
		err = errors.Join(err, g.argo.Stop())
	}
	return err
}

// diagnose adds to an error what Argo CD, the device and the pods say.
func (g *gitOps) diagnose(ctx context.Context, err error) error {
	if g.argo != nil {
		for _, name := range []string{fleetApp, workloadsApp} {
			if app, unknown := g.argo.Application(ctx, name); unknown == nil {
				err = fmt.Errorf("%w\nApplication %s is %s", err, name, app)
			}
		}
		err = fmt.Errorf("%w\n%s", err, g.argo.Logs())
	}
	if g.machine == nil {
		return errors.Join(err, g.logs(ctx))
	}
	return g.explain(ctx, g.machine, err)
}

// prepare has images, Argo CD and the repository.
func (g *gitOps) prepare(ctx context.Context) (err error) {
	if g.documents, err = readDocuments(filepath.Join(g.tree.Root, "docs", "argocd.md")); err != nil {
		return err
	}
	if err := g.supply(ctx); err != nil {
		return err
	}
	if err := g.Step("the fleet's images get another tag too", func() error {
		return importReleased(ctx, g.Cluster, g.tree, nextTag)
	}); err != nil {
		return err
	}
	if err := g.Step("Argo CD runs beside the cluster, with the settings that the tree has for it", func() (err error) {
		g.argo, err = argocd.Start(ctx, argocd.Options{Cluster: g.Cluster, Component: filepath.Join(g.tree.Root, "kustomize", "argocd")})
		return err
	}); err != nil {
		return err
	}
	if err := g.Step("docs/argocd.md tells people to give it the same settings", func() error {
		r, err := g.read(ctx, "docs/argocd.md", tools.Helm3)
		if err != nil {
			return err
		}
		out, err := r.run(ctx, r.block("", 0))
		if err == nil && !strings.Contains(out, "(no change)") {
			err = fmt.Errorf("kubectl patch says %s", out)
		}
		return err
	}); err != nil {
		return err
	}
	if err := g.Step("it tells from each status how a Deployment or a Device does", func() error {
		return tellHealth(ctx, g.argo)
	}); err != nil {
		return err
	}
	return g.Step("chart and base are in a git repository", func() error {
		if g.git, err = argocd.NewRepository(ctx, filepath.Join(g.dir, "repository")); err != nil {
			return err
		}
		for _, folder := range []string{"charts", "kustomize"} {
			if err := g.git.Copy(filepath.Join(g.tree.Root, folder), folder); err != nil {
				return fmt.Errorf("filling a repository: %w", err)
			}
		}
		return g.git.Commit(ctx, "a fleet")
	})
}

// chart takes an installation of the chart through its life.
func (g *gitOps) chart(ctx context.Context) error {
	for _, step := range []struct {
		what string
		run  func(context.Context) error
	}{
		{"an Application of the chart becomes Synced and Healthy", g.installs(g.documents.chart)},
		{"a device joins, and an Application of a Deployment is Progressing until it runs there", g.runs},
		{"both stay Synced and Healthy for ten comparisons, while the status changes all the time", g.calm(10)},
		{"an image that is missing makes it Degraded, and the next commit Healthy again", g.fails},
		{"a commit with another tag rolls out", g.upgrades(g.nextChart)},
		{"what a person changes is put back", g.heals},
		{"what git no longer has goes, but for definitions and what is of their kinds", g.prunes},
		{"with 1,000 Devices it goes on as before", g.crowds},
		{"without Applications, what people and devices own is left", g.leaves},
	} {
		if err := g.Step(step.what, func() error { return step.run(ctx) }); err != nil {
			return err
		}
	}
	return g.Step("and everything can be removed then", func() error { return g.clear(ctx) })
}

// base does so in short with the Kustomize base.
func (g *gitOps) base(ctx context.Context) error {
	for _, step := range []struct {
		what string
		run  func(context.Context) error
	}{
		{"an Application of the Kustomize base becomes Synced and Healthy", g.installs(g.documents.base)},
		{"a device joins, and runs what git says", g.runs},
		{"both stay Synced and Healthy for ten comparisons", g.calm(10)},
		{"a commit with another tag rolls out here too", g.upgrades(g.nextBase)},
		{"without Applications, what people and devices own is left", g.leaves},
	} {
		if err := g.Step(step.what, func() error { return step.run(ctx) }); err != nil {
			return err
		}
	}
	return g.Step("and everything can be removed then", func() error { return g.clear(ctx) })
}

// installs applies the Application of a whole fleet.
func (g *gitOps) installs(document map[string]any) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := g.follow(ctx, document); err != nil {
			return err
		}
		return g.settles(ctx, fleetApp)
	}
}

// follow applies an Application of the document as it is, but for where it comes from.
func (g *gitOps) follow(ctx context.Context, document map[string]any) error {
	manifest, err := fromGit(document, g.git.URL())
	if err != nil {
		return err
	}
	_, err = g.Kubectl(ctx, manifest, "apply", "--filename=-")
	return err
}

// settles waits until an Application is what is committed, Synced and Healthy.
func (g *gitOps) settles(ctx context.Context, name string) error {
	head, err := g.git.Head(ctx)
	if err != nil {
		return err
	}
	return eventually(ctx, func() error {
		app, err := g.argo.Application(ctx, name)
		if err == nil {
			err = app.Settled()
		}
		if err == nil && app.Status.Sync.Revision != head {
			err = fmt.Errorf("the Application is of another commit than %.7s: %s", head, app)
		}
		return err
	})
}

// commits commits what was written into the repository, and tells Argo CD, as a git
// server does.
func (g *gitOps) commits(ctx context.Context, message, app string) error {
	if err := g.git.Commit(ctx, message); err != nil {
		return err
	}
	_, err := g.argo.Refresh(ctx, app)
	return err
}

// leaves deletes both Applications. What git has of the fleet's resources goes; what is
// made in the cluster, and what all of it hangs on, stays.
func (g *gitOps) leaves(ctx context.Context) error {
	for _, app := range []string{workloadsApp, fleetApp} {
		if err := g.argo.Delete(ctx, app); err != nil {
			return err
		}
	}
	if err := g.leave(); err != nil {
		return err
	}
	for _, kept := range [][]string{
		{"get", "fdev,fpol", "pi-1"},
		{"get", "namespace", namespace},
		{"--namespace=" + namespace, "get", "secret/" + product + "-keys", "persistentvolumeclaim/data-" + product + "-nats-0", "stream/" + product + "-desired-state"},
	} {
		if _, err := g.Kubectl(ctx, "", kept...); err != nil {
			return err
		}
	}
	left, err := g.Kubectl(ctx, "", "--namespace="+namespace, "get", "deployments.apps,statefulsets,services", "--selector=app.kubernetes.io/part-of="+product, "--output=name")
	if err == nil && strings.TrimSpace(left) != "" {
		err = fmt.Errorf("deleting the Application has left %s", strings.Fields(left))
	}
	return err
}
