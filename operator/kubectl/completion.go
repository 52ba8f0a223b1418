package kubectl

import (
	"context"

	"github.com/spf13/cobra"
)

// names lists what may stand in one place of the command line. When the cluster
// does not answer there is nothing to offer, and a shell shows no errors.
type names func(context.Context) []string

func (s *session) deviceNames(ctx context.Context) []string {
	cluster, err := s.cluster()
	if err != nil {
		return nil
	}
	list, err := cluster.devices(ctx, "")
	if err != nil {
		return nil
	}
	var found []string
	for _, d := range list.Items {
		found = append(found, d.Name)
	}
	return found
}

func (s *session) deploymentNames(ctx context.Context) []string {
	namespace, namespaceErr := s.namespace()
	cluster, clusterErr := s.cluster()
	if namespaceErr != nil || clusterErr != nil {
		return nil
	}
	list, err := cluster.deployments(ctx, namespace)
	if err != nil {
		return nil
	}
	var found []string
	for _, d := range list.Items {
		found = append(found, d.Name)
	}
	return found
}

func completion(list names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return list(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	}
}

// positional completes each argument from the list in its place.
func positional(lists ...names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) < len(lists) {
			return completion(lists[len(args)])(cmd, args, typed)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}
