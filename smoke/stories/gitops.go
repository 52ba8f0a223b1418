package stories

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/registry"
)

// Files of the repository.
const (
	chartValues = "charts/" + product + "/values.yaml"
	baseFile    = "kustomize/base/kustomization.yaml"
	helloDir    = "kustomize/examples/fleet/"
)

// runs lets this host in as a device, and has an Application say what it runs. The
// image comes late, so that there is time to see that it is missing.
func (g *gitOps) runs(ctx context.Context) (err error) {
	if g.machine, err = newMachine(ctx, g.Cluster); err != nil {
		return err
	}
	if g.forward, err = g.Forward(ctx, namespace, "service/"+product+"-nats", 4222); err != nil {
		return err
	}
	if err := g.machine.enrol(ctx, fmt.Sprintf("tls://localhost:%d", g.forward.Port)); err != nil {
		return err
	}
	if err := g.until(ctx, "True", "get", "fdev", "pi-1", `--output=jsonpath={.status.conditions[?(@.type=="Reachable")].status}`); err != nil {
		return err
	}
	g.machine.registry.Break(registry.Hanging)
	if err := g.writeHello("v1"); err != nil {
		return err
	}
	if err := g.git.Commit(ctx, "a workload"); err != nil {
		return err
	}
	if err := g.follow(ctx, g.documents.workloads); err != nil {
		return err
	}
	if err := g.until(ctx, "True", "get", "fdep", "hello", `--output=jsonpath={.status.conditions[?(@.type=="Reconciling")].status}`); err != nil {
		return err
	}
	if err := g.healthIs(ctx, "Progressing"); err != nil {
		return err
	}
	g.machine.registry.Break(registry.Healthy)
	return g.settles(ctx, workloadsApp)
}

// leave ends the device.
func (g *gitOps) leave() error {
	if g.forward != nil {
		g.forward.Stop()
	}
	var err error
	if g.machine != nil {
		err = g.machine.stop()
	}
	g.forward, g.machine = nil, nil
	return err
}

// writeHello puts a Deployment into the repository, in place of the examples.
func (g *gitOps) writeHello(version string) error {
	hello := fmt.Sprintf(`apiVersion: fleet.nationtech.io/v1alpha1
kind: Deployment
metadata: {name: hello, namespace: default}
spec:
  targetSelector: {matchLabels: {group: a}}
  score: {podmanV0: {services: [{name: hello, image: %q}]}}
`, g.machine.registry.Ref("hello:"+version))
	return errors.Join(
		g.git.Write(helloDir+"kustomization.yaml", []byte("resources: [hello.yaml]\n")),
		g.git.Write(helloDir+"hello.yaml", []byte(hello)),
	)
}

// healthIs waits for the health of the workloads.
func (g *gitOps) healthIs(ctx context.Context, want string) error {
	return eventually(ctx, func() error {
		app, err := g.argo.Application(ctx, workloadsApp)
		if err == nil && app.Status.Health.Status != want {
			err = fmt.Errorf("the Application is not %s: %s", want, app)
		}
		return err
	})
}

// fails commits an image that there is not, and another one then.
func (g *gitOps) fails(ctx context.Context) error {
	if err := g.writeHello("missing"); err != nil {
		return err
	}
	if err := g.commits(ctx, "a mistake", workloadsApp); err != nil {
		return err
	}
	if err := g.healthIs(ctx, "Degraded"); err != nil {
		return err
	}
	if err := g.writeHello("v2"); err != nil {
		return err
	}
	if err := g.commits(ctx, "a correction", workloadsApp); err != nil {
		return err
	}
	return g.settles(ctx, workloadsApp)
}

// edit changes a file of YAML in the repository.
func (g *gitOps) edit(name string, change func(map[string]any) error) error {
	text, err := os.ReadFile(g.git.Path(name))
	if err != nil {
		return err
	}
	var content map[string]any
	if err := yaml.Unmarshal(text, &content); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if err := change(content); err != nil {
		return fmt.Errorf("changing %s: %w", name, err)
	}
	if text, err = yaml.Marshal(content); err != nil {
		return fmt.Errorf("printing %s: %w", name, err)
	}
	return g.git.Write(name, text)
}

// nextChart has the chart name the other tag.
func (g *gitOps) nextChart() error {
	return g.edit(chartValues, func(values map[string]any) error {
		return unstructured.SetNestedField(values, nextTag, "image", "tag")
	})
}

// nextBase has the base do so.
func (g *gitOps) nextBase() error {
	return g.edit(baseFile, func(base map[string]any) error {
		var images []any
		for _, program := range []string{"fleet-operator", "fleet-callout"} {
			images = append(images, map[string]any{"name": published + "/" + program, "newTag": nextTag})
		}
		return unstructured.SetNestedSlice(base, images, "images")
	})
}

// upgrades commits another tag, and waits until every program of the fleet has it. What
// devices run goes on.
func (g *gitOps) upgrades(change func() error) func(context.Context) error {
	return func(ctx context.Context) error {
		before, err := g.machine.Running(ctx)
		if err != nil {
			return err
		}
		if err := change(); err != nil {
			return err
		}
		if err := g.commits(ctx, "another tag", fleetApp); err != nil {
			return err
		}
		if err := g.settles(ctx, fleetApp); err != nil {
			return err
		}
		images, err := g.Kubectl(ctx, "", "--namespace="+namespace, "get", "deployments.apps", "--selector=app.kubernetes.io/component in (operator,callout,keys)",
			"--output=jsonpath={.items[*].spec.template.spec.containers[*].image}")
		if err != nil {
			return err
		}
		if all := strings.Fields(images); len(all) == 0 || slices.ContainsFunc(all, func(image string) bool { return !strings.HasSuffix(image, ":"+nextTag) }) {
			return fmt.Errorf("the programs have the images %s, want the tag %s", images, nextTag)
		}
		after, err := g.machine.Running(ctx)
		if err == nil && after != before {
			err = fmt.Errorf("the device's containers were %s and are %s", before, after)
		}
		return err
	}
}

// heals changes by hand what git has, and deletes something.
func (g *gitOps) heals(ctx context.Context) error {
	replicas := []string{"--namespace=" + namespace, "get", "deployments.apps", product + "-callout", "--output=jsonpath={.spec.replicas}"}
	before, err := g.Kubectl(ctx, "", replicas...)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"--namespace=" + namespace, "scale", "deployments.apps", product + "-callout", "--replicas=0"},
		{"--namespace=" + namespace, "delete", "configmap", product + "-callout"},
		{"patch", "fdep", "hello", "--type=json", `--patch=[{"op":"replace","path":"/spec/score/podmanV0/services/0/image","value":"example.com/edited:1"}]`},
	} {
		if _, err := g.Kubectl(ctx, "", args...); err != nil {
			return err
		}
	}
	for _, check := range []struct {
		want string
		args []string
	}{
		{before, replicas},
		{product + "-callout", []string{"--namespace=" + namespace, "get", "configmap", product + "-callout", "--output=jsonpath={.metadata.name}"}},
		{g.machine.registry.Ref("hello:v2"), []string{"get", "fdep", "hello", "--output=jsonpath={.spec.score.podmanV0.services[0].image}"}},
	} {
		if err := g.until(ctx, check.want, check.args...); err != nil {
			return err
		}
	}
	return errors.Join(g.settles(ctx, fleetApp), g.settles(ctx, workloadsApp))
}

// prunes takes the NetworkPolicies and the definitions out of the chart, and puts
// them back.
func (g *gitOps) prunes(ctx context.Context) error {
	parts := func(there bool) error {
		return g.edit(chartValues, func(values map[string]any) error {
			return errors.Join(
				unstructured.SetNestedField(values, there, "crds", "enabled"),
				unstructured.SetNestedField(values, there, "networkPolicy", "enabled"),
			)
		})
	}
	policies := []string{"--namespace=" + namespace, "get", "networkpolicies", "--output=name"}
	if found, err := g.Kubectl(ctx, "", policies...); err != nil || found == "" {
		return errors.Join(errors.New("there are no NetworkPolicies to be pruned"), err)
	}
	kept := []string{"get", "crd/devices.fleet.nationtech.io", "crd/deployments.fleet.nationtech.io", "fdep/hello", "fdev/pi-1", "fpol/pi-1", "--output=jsonpath={.items[*].metadata.uid}"}
	before, err := g.Kubectl(ctx, "", kept...)
	if err != nil {
		return err
	}
	if err := parts(false); err != nil {
		return err
	}
	if err := g.commits(ctx, "fewer parts", fleetApp); err != nil {
		return err
	}
	if err := g.until(ctx, "", policies...); err != nil {
		return err
	}
	if err := g.until(ctx, before, kept...); err != nil {
		return err
	}
	if err := parts(true); err != nil {
		return err
	}
	if err := g.commits(ctx, "all parts again", fleetApp); err != nil {
		return err
	}
	return g.settles(ctx, fleetApp)
}

// calm watches the Applications for so many comparisons. Neither may be anything but
// Synced and Healthy, and nothing may be applied. Meanwhile a Device that the
// Deployment matches appears each second, so that its status changes.
func (g *gitOps) calm(times int) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		changing, changeCtx := errgroup.WithContext(ctx)
		changing.Go(func() error {
			for changeCtx.Err() == nil {
				if err := g.devices(changeCtx, 1); err != nil && changeCtx.Err() == nil {
					return err
				}
				select {
				case <-changeCtx.Done():
				case <-time.After(time.Second):
				}
			}
			return nil
		})
		err := g.watch(changeCtx, times)
		cancel()
		return errors.Join(changing.Wait(), err)
	}
}

// watch is calm without what disturbs.
func (g *gitOps) watch(ctx context.Context, times int) error {
	operations, compared, statuses := map[string]string{}, map[string]map[string]bool{}, map[string]bool{}
	for end := time.Now().Add(patience); ; time.Sleep(300 * time.Millisecond) {
		done := true
		for _, name := range []string{fleetApp, workloadsApp} {
			app, err := g.argo.Application(ctx, name)
			if err == nil {
				err = app.Settled()
			}
			if err != nil {
				return err
			}
			if compared[name] == nil {
				operations[name], compared[name] = app.Status.OperationState.StartedAt, map[string]bool{}
			}
			if app.Status.OperationState.StartedAt != operations[name] {
				return fmt.Errorf("something was applied although nothing has changed: %s", app)
			}
			compared[name][app.Status.ReconciledAt] = true
			done = done && len(compared[name]) > times
		}
		status, err := g.Kubectl(ctx, "", "get", "fdep", "hello", "--output=jsonpath={.status.aggregate}")
		if err != nil {
			return err
		}
		statuses[status] = true
		if done && len(statuses) > times {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %s the Applications have been compared %d and %d times, and the Deployment has had %d statuses",
				patience, len(compared[fleetApp]), len(compared[workloadsApp]), len(statuses))
		}
	}
}

// devices makes Devices of the Deployment's group that never connect.
func (g *gitOps) devices(ctx context.Context, count int) error {
	config := g.Config()
	config.QPS = -1 // as fast as the API server goes
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	resource := client.Resource(v1alpha1.GroupVersion.WithResource("devices"))
	making, makeCtx := errgroup.WithContext(ctx)
	making.SetLimit(16)
	for range count {
		g.made++
		name := fmt.Sprintf("silent-%d", g.made)
		making.Go(func() error {
			_, err := resource.Create(makeCtx, &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": v1alpha1.GroupVersion.String(), "kind": "Device",
				"metadata": map[string]any{"name": name, "labels": map[string]any{"group": "a"}},
			}}, metav1.CreateOptions{})
			return err
		})
	}
	return making.Wait()
}

// crowds says how long a comparison takes before and after there are many Devices.
func (g *gitOps) crowds(ctx context.Context) error {
	const many = 1000
	before, err := g.refreshes(ctx)
	if err != nil {
		return err
	}
	if err := g.devices(ctx, many); err != nil {
		return err
	}
	after, err := g.refreshes(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(g.Progress(), "    a comparison that is asked for takes %s, and %s with %d more Devices\n", before, after, many)
	return g.calm(2)(ctx)
}

// refreshes is how long the middle one of a few takes.
func (g *gitOps) refreshes(ctx context.Context) (time.Duration, error) {
	took := make([]time.Duration, 5)
	for n := range took {
		var err error
		if took[n], err = g.argo.Refresh(ctx, fleetApp); err != nil {
			return 0, err
		}
	}
	slices.Sort(took)
	return took[len(took)/2].Round(10 * time.Millisecond), nil
}
