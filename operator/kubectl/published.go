package kubectl

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// published is what the operator tells whoever enrols devices; all of it is ""
// when it tells nothing, or not to this person.
type published struct {
	trustedKeys []string
	natsURL, ca string
	// caFrom is where ca was read.
	caFrom string
	// policies says where they are kept.
	policies string
	version  string // the operator's
}

// lookTimeout bounds a look at the cluster for somebody who needs it for nothing
// else.
const lookTimeout = 5 * time.Second

// published asks the cluster. Where OpenBao keeps the policies nothing fails with
// it: a thief has to be kept out while the cluster is down, too.
func (s *session) published(ctx context.Context, o storeFlags) (*published, error) {
	if !o.inOpenBao() {
		return s.readPublished(ctx, o.namespace)
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if told, err := s.readPublished(ctx, o.namespace); err == nil {
		return told, nil
	}
	return &published{}, nil
}

func (s *session) readPublished(ctx context.Context, namespace string) (*published, error) {
	kube, err := s.kubeconfig()
	if err != nil {
		return nil, err
	}
	client, err := corev1.NewForConfig(kube)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	found, err := client.ConfigMaps(namespace).Get(ctx, config.PublishedName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return &published{}, nil // flags and variables say the same
	}
	if err != nil {
		return nil, fmt.Errorf("reading what the operator published: %w", explain(err))
	}
	return &published{
		trustedKeys: strings.Fields(found.Data[config.PublishedTrustedKeys]), natsURL: found.Data[config.PublishedNATSURL],
		ca: found.Data[config.PublishedCA], policies: found.Data[config.PublishedPolicies],
		version: found.Data[config.PublishedVersion],
		caFrom:  fmt.Sprintf("%s of the ConfigMap %s in the namespace %s", config.PublishedCA, config.PublishedName, namespace),
	}, nil
}
