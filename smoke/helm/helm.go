// Package helm packs and installs charts as the helm command does, with its
// library. It waits as `helm install --wait` does, and knows nothing of what is in
// a chart.
package helm

import (
	"context"
	"fmt"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli"
	"helm.sh/helm/v3/pkg/strvals"
)

// Client works in one namespace of a cluster.
type Client struct {
	config    *action.Configuration
	namespace string
}

// New reads the kubeconfig. Debug hears what Helm does.
func New(kubeconfig, namespace string, debug func(format string, values ...any)) (*Client, error) {
	settings := cli.New()
	settings.KubeConfig = kubeconfig
	settings.SetNamespace(namespace)
	c := &Client{config: &action.Configuration{}, namespace: namespace}
	if err := c.config.Init(settings.RESTClientGetter(), namespace, "secret", debug); err != nil {
		return nil, fmt.Errorf("preparing Helm: %w", err)
	}
	return c, nil
}

// Pack makes an archive of the chart in the folder, in another folder, and returns
// its path.
func Pack(chart, folder string) (archive string, err error) {
	p := action.NewPackage()
	p.Destination = folder
	if archive, err = p.Run(chart, nil); err != nil {
		return "", fmt.Errorf("packing the chart %s: %w", chart, err)
	}
	return archive, nil
}

// Values reads a file of values, "" for none, and over it settings as the command's
// --set has them: "nats.replicas=3".
func Values(file string, settings ...string) (values map[string]any, err error) {
	values = map[string]any{}
	if file != "" {
		if values, err = chartutil.ReadValuesFile(file); err != nil {
			return nil, fmt.Errorf("reading the values %s: %w", file, err)
		}
	}
	for _, setting := range settings {
		if err := strvals.ParseInto(setting, values); err != nil {
			return nil, fmt.Errorf("reading %q: %w", setting, err)
		}
	}
	return values, nil
}

// SetString adds a value as the command's --set-string has it.
func SetString(values map[string]any, setting string) error {
	if err := strvals.ParseIntoString(setting, values); err != nil {
		return fmt.Errorf("reading %q: %w", setting, err)
	}
	return nil
}

// patience is how long something may take to become ready, or to go.
const patience = 10 * time.Minute

// Install installs the archive of a chart, and waits until all of it is ready.
func (c *Client) Install(ctx context.Context, release, archive string, values map[string]any) error {
	chart, err := loader.Load(archive)
	if err != nil {
		return fmt.Errorf("reading the chart %s: %w", archive, err)
	}
	install := action.NewInstall(c.config)
	install.ReleaseName, install.Namespace = release, c.namespace
	install.Wait, install.Timeout = true, patience
	if _, err := install.RunWithContext(ctx, chart, values); err != nil {
		return fmt.Errorf("helm install %s: %w", release, err)
	}
	return nil
}

// Render returns what a release of the archive's chart consists of, definitions
// included, as YAML documents. Of the cluster it asks nothing but its version.
func (c *Client) Render(ctx context.Context, release, archive string, values map[string]any) (string, error) {
	chart, err := loader.Load(archive)
	if err != nil {
		return "", fmt.Errorf("reading the chart %s: %w", archive, err)
	}
	discovery, err := c.config.RESTClientGetter.ToDiscoveryClient()
	if err != nil {
		return "", fmt.Errorf("preparing to ask for the cluster's version: %w", err)
	}
	version, err := discovery.ServerVersion()
	if err != nil {
		return "", fmt.Errorf("asking for the cluster's version: %w", err)
	}
	install := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	install.KubeVersion = &chartutil.KubeVersion{Version: version.GitVersion, Major: version.Major, Minor: version.Minor}
	install.ReleaseName, install.Namespace = release, c.namespace
	install.DryRun, install.ClientOnly, install.IncludeCRDs = true, true, true
	rendered, err := install.RunWithContext(ctx, chart, values)
	if err != nil {
		return "", fmt.Errorf("helm template %s: %w", release, err)
	}
	return rendered.Manifest, nil
}

// Test runs the tests of a release, as `helm test` does.
func (c *Client) Test(release string) error {
	test := action.NewReleaseTesting(c.config)
	test.Namespace, test.Timeout = c.namespace, patience
	if _, err := test.Run(release); err != nil {
		return fmt.Errorf("helm test %s: %w", release, err)
	}
	return nil
}

// Uninstall removes a release, and waits until its objects are gone.
func (c *Client) Uninstall(release string) error {
	uninstall := action.NewUninstall(c.config)
	uninstall.Wait, uninstall.Timeout = true, patience
	if _, err := uninstall.Run(release); err != nil {
		return fmt.Errorf("helm uninstall %s: %w", release, err)
	}
	return nil
}
