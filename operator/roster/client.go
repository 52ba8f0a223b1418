package roster

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/nationtech/harmony-fleet/apis/fleet/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
)

// resource is the plural of DevicePolicy.
const resource = "devicepolicies"

// client reads and writes DevicePolicies.
type client struct {
	rest rest.Interface
	http *http.Client
}

func newClient(kube *rest.Config) (client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return client{}, fmt.Errorf("registering the fleet's types: %w", err)
	}
	kube = rest.CopyConfig(kube)
	kube.QPS = -1 // the API server has its own flow control, and the callout bounds what devices can cause
	kube.APIPath, kube.GroupVersion = "/apis", &v1alpha1.GroupVersion
	kube.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	connections, err := rest.HTTPClientFor(kube)
	if err != nil {
		return client{}, fmt.Errorf("preparing to reach the API server: %w", err)
	}
	c, err := rest.RESTClientForConfigAndClient(kube, connections)
	if err != nil {
		return client{}, fmt.Errorf("preparing to reach the API server: %w", err)
	}
	return client{c, connections}, nil
}

// get is nil when there is none.
func (c client) get(ctx context.Context, id wire.DeviceID) (*v1alpha1.DevicePolicy, error) {
	o := &v1alpha1.DevicePolicy{}
	err := c.rest.Get().Resource(resource).Name(string(id)).Do(ctx).Into(o)
	if isAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the policy of %q: %w", id, explain(err))
	}
	return o, nil
}

func (c client) list(ctx context.Context, o metav1.ListOptions) (*v1alpha1.DevicePolicyList, error) {
	found := &v1alpha1.DevicePolicyList{}
	return found, explain(c.rest.Get().Resource(resource).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Into(found))
}

func (c client) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	events, err := c.rest.Get().Resource(resource).VersionedParams(&o, metav1.ParameterCodec).Watch(ctx)
	return events, explain(err)
}

// create fails with policy.ErrChanged when there is one.
func (c client) create(ctx context.Context, o *v1alpha1.DevicePolicy) error {
	return written(o, c.rest.Post().Resource(resource).Body(o).Do(ctx).Error())
}

// put replaces the spec, or a subresource, in the version that is named. It fails
// with policy.ErrChanged when that is another one, or there is none any more.
func (c client) put(ctx context.Context, subresource string, o *v1alpha1.DevicePolicy) error {
	request := c.rest.Put().Resource(resource).Name(o.Name)
	if subresource != "" {
		request = request.SubResource(subresource)
	}
	return written(o, request.Body(o).Do(ctx).Error())
}

// delete removes that very object in that very version, or fails with
// policy.ErrChanged.
func (c client) delete(ctx context.Context, o *v1alpha1.DevicePolicy) error {
	options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &o.UID, ResourceVersion: &o.ResourceVersion}}
	return written(o, c.rest.Delete().Resource(resource).Name(o.Name).Body(options).Do(ctx).Error())
}

func (c client) close() { c.http.CloseIdleConnections() }

// written says what the answer to a write means.
func written(o *v1alpha1.DevicePolicy, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), isAbsent(err):
		return fmt.Errorf("writing the policy of %q: %w", o.Name, policy.ErrChanged)
	}
	return fmt.Errorf("writing the policy of %q: %w", o.Name, explain(err))
}

// isAbsent tells a resource that is not there from an API that is not.
func isAbsent(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// explain says of a refusal what to do.
func explain(err error) error {
	var status apierrors.APIStatus
	switch {
	case apierrors.IsForbidden(err) && errors.As(err, &status):
		return fmt.Errorf("a right to devicepolicies is missing; docs/people.md has the role that enrols: %w", err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("the cluster does not know devicepolicies.%s; install the custom resource definitions of this release: %w", v1alpha1.Group, err)
	}
	return err
}
