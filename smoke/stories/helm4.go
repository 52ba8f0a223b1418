package stories

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// debugging is a change of the values.
const debugging = "--set=operator.config.logLevel=debug"

// helm4 installs and upgrades with Helm 4, which applies on the server: there
// nobody may write a field that the chart has.
func helm4(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) error {
		if err := i.supply(ctx); err != nil {
			return err
		}
		var archive string
		helm := func(args ...string) error {
			_, err := i.command(ctx, append(args, product, archive, "--wait", "--timeout=10m")...)
			return err
		}
		for _, step := range []struct {
			what string
			run  func() error
		}{
			{"helm 4 install makes everything ready", func() (err error) {
				if archive, err = i.pack(); err != nil {
					return err
				}
				if err := i.house(ctx); err != nil {
					return err
				}
				return helm("install", "--server-side=true")
			}},
			{"an upgrade with another value finds no conflict", func() error {
				if err := helm("upgrade", "--server-side=true", debugging); err != nil {
					return err
				}
				file, err := i.Kubectl(ctx, "", "--namespace="+namespace, "get", "configmap", product+"-operator", `--output=jsonpath={.data.config\.yaml}`)
				if err == nil && !strings.Contains(file, `logLevel: "debug"`) {
					err = fmt.Errorf("the operator's configuration is %s", file)
				}
				return err
			}},
			{"the same once more changes no object", func() error {
				// What has just been made anew still tells how it does.
				return eventually(ctx, func() error {
					before, err := i.versions(ctx)
					if err != nil {
						return err
					}
					if err := helm("upgrade", "--server-side=true", debugging); err != nil {
						return err
					}
					after, err := i.versions(ctx)
					if err == nil && after != before {
						err = fmt.Errorf("the objects' versions were\n%s\nand are\n%s", before, after)
					}
					return err
				})
			}},
			{"helm 4 uninstall, and everything can be removed then", func() error {
				if _, err := i.command(ctx, "uninstall", product, "--wait", "--timeout=10m"); err != nil {
					return err
				}
				return i.clear(ctx)
			}},
		} {
			if err := i.Step(step.what, step.run); err != nil {
				return err
			}
		}
		return nil
	})
}

// command is the helm command, of version 4, as a person runs it.
func (i *installation) command(ctx context.Context, args ...string) (string, error) {
	program, err := tools.Build(ctx, tools.Helm, i.Progress())
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--namespace=" + namespace}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+i.Kubeconfig(), "HELM_CACHE_HOME="+i.dir, "HELM_CONFIG_HOME="+i.dir, "HELM_DATA_HOME="+i.dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// versions are those that the API server gives the objects of the release.
func (i *installation) versions(ctx context.Context) (string, error) {
	manifest, err := i.command(ctx, "get", "manifest", product)
	if err != nil {
		return "", err
	}
	return i.Kubectl(ctx, manifest, "--namespace="+namespace, "get", "--filename=-",
		`--output=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`)
}
