package kubectl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// fieldManager owns the fields that `kubectl fleet apply` sets.
const fieldManager = "kubectl-fleet"

// Resource names in the API's paths.
const (
	deployments = "deployments"
	devices     = "devices"
)

// cluster reads and writes the fleet's resources.
type cluster struct{ rest rest.Interface }

func (s *session) cluster() (*cluster, error) {
	config, err := s.kubeconfig()
	if err != nil {
		return nil, err
	}
	return newCluster(config)
}

func (s *session) kubeconfig() (*rest.Config, error) {
	config, err := s.kube.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig (choose one with --kubeconfig or KUBECONFIG): %w", err)
	}
	return rest.CopyConfig(config), nil
}

func newCluster(config *rest.Config) (*cluster, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering the fleet's types: %w", err)
	}
	config.APIPath, config.GroupVersion = "/apis", &v1alpha1.GroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return &cluster{client}, nil
}

// namespace is that of --namespace, or of the kubeconfig's context.
func (s *session) namespace() (string, error) {
	namespace, _, err := s.kube.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return "", fmt.Errorf("reading the namespace of the kubeconfig: %w", err)
	}
	return namespace, nil
}

// apply applies the Deployment server-side and returns what the cluster has now.
func (c *cluster) apply(ctx context.Context, d *v1alpha1.Deployment, options metav1.PatchOptions) (*v1alpha1.Deployment, error) {
	content, err := intent(d)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encoding deployment %q: %w", d.Name, err)
	}
	options.FieldManager = fieldManager
	applied := &v1alpha1.Deployment{}
	err = c.rest.Patch(types.ApplyPatchType).Namespace(d.Namespace).Resource(deployments).Name(d.Name).
		VersionedParams(&options, metav1.ParameterCodec).Body(body).Do(ctx).Into(applied)
	if apierrors.IsConflict(err) {
		return nil, fmt.Errorf("%w\nTake these fields over with --force-conflicts", err)
	}
	return applied, explain(err)
}

func (c *cluster) delete(ctx context.Context, id wire.DeploymentID, options metav1.DeleteOptions) error {
	return explain(c.rest.Delete().Namespace(id.Namespace).Resource(deployments).Name(id.Name).Body(&options).Do(ctx).Error())
}

func (c *cluster) deployment(ctx context.Context, id wire.DeploymentID) (*v1alpha1.Deployment, error) {
	found := &v1alpha1.Deployment{}
	return found, explain(c.rest.Get().Namespace(id.Namespace).Resource(deployments).Name(id.Name).Do(ctx).Into(found))
}

func (c *cluster) deployments(ctx context.Context, namespace string) (*v1alpha1.DeploymentList, error) {
	list := &v1alpha1.DeploymentList{}
	return list, explain(c.rest.Get().Namespace(namespace).Resource(deployments).Do(ctx).Into(list))
}

// devices lists the Devices that match the selector, all of them for "".
func (c *cluster) devices(ctx context.Context, selector string) (*v1alpha1.DeviceList, error) {
	list := &v1alpha1.DeviceList{}
	err := c.rest.Get().Resource(devices).
		VersionedParams(&metav1.ListOptions{LabelSelector: selector}, metav1.ParameterCodec).Do(ctx).Into(list)
	list.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "DeviceList"}
	return list, explain(err)
}

// explain adds to an error of the API server what a person can do about it,
// where the error itself does not say.
func explain(err error) error {
	if unreachable := (*url.Error)(nil); errors.As(err, &unreachable) {
		return fmt.Errorf("the cluster does not answer (is it up, and is the kubeconfig the right one?): %w", err)
	}
	status := apierrors.APIStatus(nil)
	if errors.As(err, &status) && apierrors.IsNotFound(err) {
		if details := status.Status().Details; details == nil || details.Name == "" {
			return fmt.Errorf("the cluster does not know %s: install Harmony Fleet there first: %w", v1alpha1.Group, err)
		}
	}
	return err
}
