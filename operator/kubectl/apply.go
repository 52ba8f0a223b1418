package kubectl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// applyOptions says what to do with the Deployment that the request describes.
type applyOptions struct {
	print, delete, force bool
	dryRun               string
}

func newApply(s *session) *cobra.Command {
	var r request
	var o applyOptions
	cmd := &cobra.Command{
		Use:   "apply --name NAME --image IMAGE (--target-device ID | --selector SELECTOR)",
		Short: "Run an image on the devices that match",
		Long: `Run an image on the devices that match: creates the Deployment or changes it.
A Deployment with several services, volumes or health checks is written in YAML;
--print gives a start.`,
		Example: `  # run an image on all devices of a group, its port 8080 on port 80 of the device
  kubectl fleet apply --name web --image registry.example/web:1 --selector 'group in (a,b),!canary' --port 80:8080

  # write YAML instead, for kubectl or a repository
  kubectl fleet apply --name web --image registry.example/web:1 --target-device pi-4 --print | kubectl apply -f -

  # take it away from all devices
  kubectl fleet apply --name web --delete`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.apply(cmd.Context(), r, o) },
	}
	f := cmd.Flags()
	f.StringVar(&r.Name, "name", "", "name of the Deployment")
	f.StringArrayVar(&r.Devices, "target-device", nil, "id of a device to run on; may be repeated")
	f.StringVarP(&r.Selector, "selector", "l", "", "labels of the devices to run on, such as 'group in (a,b),!canary'")
	f.StringVar(&r.Image, "image", "", "container image to run")
	f.StringArrayVar(&r.Ports, "port", nil, "port to publish, as HOST:CONTAINER or HOST:CONTAINER/udp; may be repeated")
	f.StringArrayVar(&r.Env, "env", nil, "environment variable, as NAME=VALUE; may be repeated")
	f.BoolVar(&o.print, "print", false, "print the Deployment as YAML and change nothing")
	f.BoolVar(&o.delete, "delete", false, "delete the Deployment; its containers are removed from all devices")
	f.BoolVar(&o.force, "force-conflicts", false, "take fields over that were set by other means")
	f.StringVar(&o.dryRun, "dry-run", "none", "'server' has the cluster check the change and not make it")
	for _, flag := range []string{"target-device", "selector", "image", "port", "env", "print", "force-conflicts"} {
		cmd.MarkFlagsMutuallyExclusive("delete", flag)
	}
	cmd.MarkFlagsMutuallyExclusive("print", "dry-run")
	must(cmd.RegisterFlagCompletionFunc("name", completion(s.deploymentNames)))
	must(cmd.RegisterFlagCompletionFunc("target-device", completion(s.deviceNames)))
	return cmd
}

func (s *session) apply(ctx context.Context, r request, o applyOptions) (err error) {
	var dryRun []string
	switch o.dryRun {
	case "none":
	case "server":
		dryRun = []string{metav1.DryRunAll}
	default:
		return usagef("--dry-run %q: want server or none; --print shows the Deployment without a cluster", o.dryRun)
	}
	if r.Name == "" {
		return usagef("--name: missing; say which Deployment")
	}
	if r.Namespace, err = s.namespace(); err != nil {
		return err
	}
	if o.delete {
		return s.delete(ctx, wire.DeploymentID{Namespace: r.Namespace, Name: r.Name}, dryRun)
	}
	deployment, err := r.deployment()
	if err != nil {
		return usageError{err}
	}
	if o.print {
		content, err := intent(deployment)
		if err != nil {
			return err
		}
		return printYAML(s.Out, content)
	}
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	applied, err := cluster.apply(ctx, deployment, metav1.PatchOptions{Force: &o.force, DryRun: dryRun})
	if err != nil {
		return fmt.Errorf("applying deployment %q: %w", r.Name, err)
	}
	fmt.Fprintf(s.Out, "deployment.%s/%s applied (generation %d)%s\n", v1alpha1.Group, applied.Name, applied.Generation, suffix(dryRun))
	return nil
}

func (s *session) delete(ctx context.Context, id wire.DeploymentID, dryRun []string) error {
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	if err := cluster.delete(ctx, id, metav1.DeleteOptions{DryRun: dryRun}); err != nil {
		return fmt.Errorf("deleting deployment %q: %w", id, err)
	}
	fmt.Fprintf(s.Out, "deployment.%s/%s deleted; its devices follow%s\n", v1alpha1.Group, id.Name, suffix(dryRun))
	return nil
}

func suffix(dryRun []string) string {
	if len(dryRun) > 0 {
		return " (server dry run)"
	}
	return ""
}
