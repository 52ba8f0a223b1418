// Package publish tells in a ConfigMap what devices are to be told when they join:
// the operator's public keys, how they reach the broker, and where their policies
// are kept. Whoever enrols devices reads it, and needs to read no Secret for that.
// It never tells anything that is secret, and reads no cluster but for that one
// ConfigMap.
package publish

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	apply "k8s.io/client-go/applyconfigurations/core/v1"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

// fieldManager owns what is written.
const fieldManager = "fleet-operator"

const (
	// lookAgain is the time between two looks at the ConfigMap and the file with the
	// certificates, which are replaced now and then.
	lookAgain = 5 * time.Minute
	// minPause and maxPause bound the wait after a failure.
	minPause, maxPause = time.Second, 30 * time.Second
)

// Options of a Publisher; all are needed.
type Options struct {
	Kube      *rest.Config
	Namespace string
	Config    config.PublishSection
	// TrustedKeys are the public keys that sign desired state, and Policies is where
	// the policies of devices are kept, as the ConfigMap calls it.
	TrustedKeys []string
	Policies    string
	// Version of the operator.
	Version string
	Log     logr.Logger
}

// Publisher keeps the ConfigMap as it should be.
type Publisher struct {
	options Options
	maps    typed.ConfigMapInterface
}

// New makes a publisher that has told nothing.
func New(o Options) (*Publisher, error) {
	client, err := typed.NewForConfig(o.Kube)
	if err != nil {
		return nil, fmt.Errorf("preparing to publish: %w", err)
	}
	return &Publisher{options: o, maps: client.ConfigMaps(o.Namespace)}, nil
}

// Run publishes, and again when something has changed, until ctx ends. It never
// gives up: nothing else depends on it.
func (p *Publisher) Run(ctx context.Context) error {
	pause, problem := backoff(), ""
	for {
		next := lookAgain
		if err := p.publish(ctx); err == nil {
			pause, problem = backoff(), ""
		} else if ctx.Err() == nil {
			next = pause.Step()
			if text := err.Error(); text != problem {
				problem = text
				p.options.Log.Error(err, "whoever enrols devices is not told what to tell them; trying again")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

func backoff() wait.Backoff {
	return wait.Backoff{Duration: minPause, Factor: 2, Jitter: 0.5, Steps: 30, Cap: maxPause}
}

// publish writes the ConfigMap unless it is as it should be.
func (p *Publisher) publish(ctx context.Context) error {
	wanted, err := p.content()
	if err != nil {
		return err
	}
	name := p.options.Config.ConfigMap
	found, err := p.maps.Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading ConfigMap %s: %w", name, err)
	}
	if err == nil && maps.Equal(found.Data, wanted) {
		return nil
	}
	object := apply.ConfigMap(name, p.options.Namespace).WithData(wanted)
	if _, err := p.maps.Apply(ctx, object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("writing ConfigMap %s: %w", name, err)
	}
	p.options.Log.Info("published what devices are to be told", "configMap", name, "namespace", p.options.Namespace)
	return nil
}

// content leaves out what is not known.
func (p *Publisher) content() (map[string]string, error) {
	data := map[string]string{config.PublishedTrustedKeys: strings.Join(p.options.TrustedKeys, "\n"), config.PublishedVersion: p.options.Version}
	if p.options.Config.NATSURL != "" {
		data[config.PublishedNATSURL] = p.options.Config.NATSURL
	}
	if p.options.Policies != "" {
		data[config.PublishedPolicies] = p.options.Policies
	}
	if file := p.options.Config.CAFile; file != "" {
		certificates, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("publish: caFile: %w", err)
		}
		data[config.PublishedCA] = string(certificates)
	}
	return data, nil
}

// Rules is what the publisher may do in its namespace, for a ConfigMap of that name.
func Rules(configMap string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{
		APIGroups: []string{corev1.GroupName}, Resources: []string{"configmaps"}, ResourceNames: []string{configMap},
		Verbs: []string{"get", "create", "patch"}, // a patch that makes it is a create too
	}}
}
