package stories

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/nationtech/harmony-fleet/release/source"
	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/device"
	"github.com/nationtech/harmony-fleet/smoke/helm"
)

// Where the fleet is installed, as its documents have it.
const (
	namespace = "fleet-system"
	product   = "harmony-fleet"
)

// install installs the packed chart without a single value, on a namespace that
// demands the restricted standard of pods, and takes a device through a life.
func install(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) error {
		if err := i.up(ctx, "with no values", nil); err != nil {
			return err
		}
		if err := i.Step("helm test finds that it works", func() error { return i.test(ctx) }); err != nil {
			return err
		}
		if err := i.device(ctx); err != nil {
			return err
		}
		return i.down(ctx)
	})
}

// installing tells a story of an installation, which it begins without.
func installing(ctx context.Context, c *cluster.Cluster, story func(*installation) error) (err error) {
	tree, err := source.Read(ctx, ".")
	if err != nil {
		return err
	}
	i := &installation{Cluster: c, tree: tree}
	if i.dir, err = os.MkdirTemp("", "fleet-story-"); err != nil {
		return fmt.Errorf("making a temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(i.dir)) }()
	if i.helm, err = helm.New(c.Kubeconfig(), namespace, func(string, ...any) {}); err != nil {
		return err
	}
	return story(i)
}

// installation is the product in a cluster.
type installation struct {
	*cluster.Cluster
	tree source.Source
	helm *helm.Client
	dir  string // for the packed chart
	url  string // of the broker, for devices
}

// up brings it up with Helm, with values that a few words tell of, in a namespace that
// demands the restricted standard of pods.
func (i *installation) up(ctx context.Context, told string, values map[string]any) error {
	if err := i.supply(ctx); err != nil {
		return err
	}
	return i.Step("helm install, "+told+", makes everything ready", func() error {
		if err := i.house(ctx); err != nil {
			return err
		}
		return i.install(ctx, values)
	})
}

// install is `helm install --wait` of the packed chart.
func (i *installation) install(ctx context.Context, values map[string]any) error {
	archive, err := i.pack()
	if err != nil {
		return err
	}
	if err := i.helm.Install(ctx, product, archive, values); err != nil {
		return errors.Join(err, i.logs(ctx))
	}
	return nil
}

// house makes the namespace, which demands the restricted standard of pods.
func (i *installation) house(ctx context.Context) error {
	if _, err := i.Kubectl(ctx, "", "create", "namespace", namespace); err != nil {
		return err
	}
	_, err := i.Kubectl(ctx, "", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
	return err
}

// supplied are the clusters that know the images: all stories of one have them from
// the first that needed them.
var supplied sync.Map

// supply has the cluster know the images.
func (i *installation) supply(ctx context.Context) error {
	if _, known := supplied.Load(i.Cluster); known {
		return nil
	}
	return i.Step("the images are built and imported", func() error {
		if err := importProduct(ctx, i.Cluster, i.tree); err != nil {
			return err
		}
		supplied.Store(i.Cluster, true)
		return nil
	})
}

// pack packs the tree's chart.
func (i *installation) pack() (archive string, err error) {
	return helm.Pack(filepath.Join(i.tree.Root, "charts", product), i.dir)
}

// logs is an error that has the last lines of all pods.
func (i *installation) logs(ctx context.Context) error {
	out, err := i.Kubectl(ctx, "", "--namespace="+namespace, "logs", "--selector=app.kubernetes.io/part-of="+product,
		"--all-containers", "--prefix", "--tail=15", "--ignore-errors")
	return errors.Join(errors.New(out), err)
}

// device lets this host in, and takes it through a life.
func (i *installation) device(ctx context.Context) (err error) {
	m, err := newMachine(ctx, i.Cluster)
	defer func() { err = errors.Join(err, m.stop()) }()
	if err != nil {
		return err
	}
	forward, err := i.Forward(ctx, namespace, "service/"+product+"-nats", 4222)
	if err != nil {
		return err
	}
	defer forward.Stop()
	err = i.Step("kubectl fleet enroll lets this host in", func() error {
		return i.explain(ctx, m, m.enrol(ctx, fmt.Sprintf("tls://localhost:%d", forward.Port)))
	})
	if err != nil {
		return err
	}
	return i.life(ctx, m)
}

// life has a device that was let in run something, changes that, and takes it away.
func (i *installation) life(ctx context.Context, d owned) error {
	var before string
	for _, step := range []struct {
		what string
		run  func() error
	}{
		{"it appears as a Device", func() error {
			return i.until(ctx, "True", "get", "fdev", "pi-1", `--output=jsonpath={.status.conditions[?(@.type=="Reachable")].status}`)
		}},
		{"kubectl fleet version finds everything in step", func() error {
			return eventually(ctx, func() error {
				out, err := d.fleet(ctx, "version", "--output=json")
				if err == nil && (strings.Contains(out, `"note"`) || !strings.Contains(out, "fleet-agent")) {
					err = fmt.Errorf("it says %s", out)
				}
				return err
			})
		}},
		{"a Deployment runs on it, and its status says so", func() error { return i.deploy(ctx, d, "v1") }},
		{"an annotation holds it back, and lets it go", func() error { return i.hold(ctx, d) }},
		{"another version replaces it", func() (err error) {
			if before, err = d.Running(ctx); err != nil {
				return err
			}
			if err := i.deploy(ctx, d, "v2"); err != nil {
				return err
			}
			after, err := d.Running(ctx)
			if err == nil && after == before {
				err = fmt.Errorf("the container is the same as before: %s", after)
			}
			return err
		}},
		{"it is deleted, and nothing is left of it", func() error {
			if _, err := i.Kubectl(ctx, "", "delete", "deployments.fleet.nationtech.io", "hello", "--timeout=2m"); err != nil {
				return err
			}
			return eventually(ctx, func() error {
				left, err := d.Running(ctx)
				if err == nil && left != "" {
					err = fmt.Errorf("containers are left: %s", left)
				}
				return err
			})
		}},
	} {
		if err := i.Step(step.what, func() error { return i.explain(ctx, d, step.run()) }); err != nil {
			return err
		}
	}
	return nil
}

// explain adds to an error what the device and the pods have logged last.
func (i *installation) explain(ctx context.Context, d device.Device, err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("%w\nfleet-agent:\n%s", err, d.Log(ctx)), i.logs(ctx))
}

// deploy applies the Deployment and waits until its status and the workload itself
// say that this version runs.
func (i *installation) deploy(ctx context.Context, d owned, version string) error {
	port, url, err := d.Port()
	if err != nil {
		return err
	}
	hello := workload{name: "hello", group: "a", image: d.Reach(d.ref("hello:" + version)), port: port, devices: 1}
	if err := i.apply(ctx, hello); err != nil {
		return err
	}
	if _, err := i.Kubectl(ctx, "", "wait", "fdep/hello", "--for=condition=Ready", "--timeout=3m"); err != nil {
		return err
	}
	if err := i.settled(ctx, hello); err != nil {
		return err
	}
	return eventually(ctx, func() error { return serves(ctx, url, version) })
}

// serves is an error unless this version of hello answers there.
func serves(ctx context.Context, url, version string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && strings.TrimSpace(string(body)) != version {
		err = fmt.Errorf("%s says %s %q, want %q", url, response.Status, body, version)
	}
	return err
}

// until waits until kubectl says just that.
func (i *installation) until(ctx context.Context, want string, args ...string) error {
	return eventually(ctx, func() error {
		got, err := i.Kubectl(ctx, "", args...)
		if err == nil && got != want {
			err = fmt.Errorf("kubectl %s says %q, want %q", strings.Join(args, " "), got, want)
		}
		return err
	})
}

// down removes it: what people own stays until they remove it themselves.
func (i *installation) down(ctx context.Context) error {
	err := i.Step("helm uninstall keeps definitions, resources, keys and what the broker holds", func() error {
		if err := i.helm.Uninstall(product); err != nil {
			return err
		}
		for _, kept := range [][]string{
			{"get", "fdev,fpol", "pi-1"},
			{"--namespace=" + namespace, "get", "secret/" + product + "-keys", "persistentvolumeclaim/data-" + product + "-nats-0", "stream/" + product + "-desired-state"},
		} {
			if _, err := i.Kubectl(ctx, "", kept...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return i.Step("and everything can be removed then", func() error { return i.clear(ctx) })
}

// clear removes what is kept when the programs are gone, as docs/install.md says.
func (i *installation) clear(ctx context.Context) error {
	if err := i.release(ctx); err != nil {
		return err
	}
	if _, err := i.Kubectl(ctx, "", "delete", "namespace", namespace, "--timeout=3m"); err != nil {
		return err
	}
	definitions, err := i.Kubectl(ctx, "", "get", "customresourcedefinitions", "--output=name")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(definitions) {
		if strings.HasSuffix(name, ".fleet.nationtech.io") || strings.HasSuffix(name, ".jetstream.nats.io") {
			if _, err := i.Kubectl(ctx, "", "delete", name, "--timeout=2m"); err != nil {
				return err
			}
		}
	}
	_, err = i.Kubectl(ctx, "", "delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "fleet-downgrades", "--ignore-not-found")
	return err
}

// release takes the finalizers off the streams: who would do so is gone.
func (i *installation) release(ctx context.Context) error {
	streams, err := i.Kubectl(ctx, "", "--namespace="+namespace, "get", "streams.jetstream.nats.io", "--output=name")
	if err != nil {
		return err
	}
	for _, stream := range strings.Fields(streams) {
		if _, err := i.Kubectl(ctx, "", "--namespace="+namespace, "patch", stream, "--type=merge", `--patch={"metadata":{"finalizers":null}}`); err != nil {
			return err
		}
	}
	return nil
}
