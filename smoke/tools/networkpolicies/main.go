// Command networkpolicies has the kernel ask about each new connection of a pod that a
// NetworkPolicy selects, and answers as the policies say: the controller of
// Kubernetes' own network group, which runs beside the pods here and not as one. What
// it has not been asked about, and anybody's traffic while it does not run, is dropped.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "`file` to reach the API server by")
	node := flag.String("node", "", "`name` of the node whose pods are meant")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *kubeconfig, *node)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "networkpolicies:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig, node string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("reading %s: %w", kubeconfig, err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	watched := informers.NewSharedInformerFactory(client, 0)
	controller, err := networkpolicy.NewController(client,
		watched.Networking().V1().NetworkPolicies(), watched.Core().V1().Namespaces(), watched.Core().V1().Pods(),
		nil, nil, nil, nil, // of policies that admins have, which are not served here
		networkpolicy.Config{NodeName: node})
	if err != nil {
		return fmt.Errorf("making the controller: %w", err)
	}
	watched.Start(ctx.Done())
	return controller.Run(ctx)
}
