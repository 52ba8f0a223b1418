package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
)

// InstallCRDs applies the definitions server-side and returns when the API
// server serves all of them.
func InstallCRDs(ctx context.Context, config *rest.Config, crds []*apiextensionsv1.CustomResourceDefinition) error {
	clients, err := clientset.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client for custom resource definitions: %w", err)
	}
	definitions := clients.ApiextensionsV1().CustomResourceDefinitions()
	force := true
	for _, crd := range crds {
		crd = crd.DeepCopy()
		crd.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
		body, err := json.Marshal(crd)
		if err != nil {
			return fmt.Errorf("encoding custom resource definition %q: %w", crd.Name, err)
		}
		_, err = definitions.Patch(ctx, crd.Name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "harmony-fleet-smoke", Force: &force})
		if err != nil {
			return fmt.Errorf("applying custom resource definition %q: %w", crd.Name, err)
		}
	}
	for _, crd := range crds {
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			current, err := definitions.Get(ctx, crd.Name, metav1.GetOptions{})
			return err == nil && established(current), err
		})
		if err != nil {
			return fmt.Errorf("waiting for custom resource definition %q to be established: %w", crd.Name, err)
		}
	}
	return nil
}

func established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	for _, condition := range crd.Status.Conditions {
		if condition.Type == apiextensionsv1.Established {
			return condition.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}
