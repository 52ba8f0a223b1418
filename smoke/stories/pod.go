package stories

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/images"
)

//go:embed pod.yaml
var podManifest string

// pod has what pod.yaml has: a Deployment of the hello image with a claim, and a Service.
func pod(ctx context.Context, c *cluster.Cluster) error {
	const inNamespace, deployment = "--namespace=story-pod", "deployment/hello"
	kubectl := func(args ...string) (string, error) {
		return c.Kubectl(ctx, "", append([]string{inNamespace}, args...)...)
	}
	expect := func(want string, args ...string) func() error {
		return func() error {
			return eventually(ctx, func() error {
				got, err := kubectl(args...)
				if err == nil && !strings.Contains(got, want) {
					err = fmt.Errorf("kubectl %s says %q, without %q", strings.Join(args, " "), got, want)
				}
				return err
			})
		}
	}
	for _, step := range []struct {
		what string
		run  func() error
	}{
		{"an image for two architectures is imported", func() error { return importHello(ctx, c, "fleet.local/story-pod:v1") }},
		{"a pod from it becomes Ready", func() error {
			if _, err := c.Kubectl(ctx, podManifest, "apply", "--filename=-"); err != nil {
				return err
			}
			_, err := kubectl("rollout", "status", deployment, "--timeout=3m")
			return err
		}},
		{"its claim is bound", expect("Bound", "get", "persistentvolumeclaim", "data", "--output=jsonpath={.status.phase}")},
		{"it resolves kubernetes.default", expect(".", "exec", deployment, "--", "/hello", "-lookup", "kubernetes.default")},
		{"its Service answers", expect("200 OK", "exec", deployment, "--", "/hello", "-check", "http://hello")},
		{"its logs are there", expect("hello: version v1 serving", "logs", deployment)},
		{"its namespace is deleted", func() error {
			// A namespace is looked at again after 15 s when it had pods at first.
			if _, err := kubectl("delete", deployment, "--cascade=foreground", "--timeout=3m"); err != nil {
				return err
			}
			_, err := c.Kubectl(ctx, "", "delete", "namespace", "story-pod", "--timeout=3m")
			return err
		}},
	} {
		if err := c.Step(step.what, step.run); err != nil {
			return err
		}
	}
	return nil
}

// importHello makes the hello image known to the cluster by this name, from an OCI
// layout for two architectures, as a release has it.
func importHello(ctx context.Context, c *cluster.Cluster, as string) error {
	index := v1.ImageIndex(empty.Index)
	for _, build := range []func(version string) (v1.Image, error){images.Hello, images.WrongArch} {
		image, err := build("v1")
		if err != nil {
			return err
		}
		file, err := image.ConfigFile()
		if err != nil {
			return fmt.Errorf("reading the configuration of %s: %w", as, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: file.Platform()}})
	}
	return importIndex(ctx, c, index, as)
}
