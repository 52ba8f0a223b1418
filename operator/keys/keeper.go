package keys

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientv1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

const (
	// lookInterval is the time between two looks at the Secrets.
	lookInterval = time.Minute
	// retryInterval is that after a look that failed: a broker waits for it.
	retryInterval = 2 * time.Second
	// tries is how often a Secret is read and written when others write it too.
	tries = 5
)

// managedBy is the label by which the certificate's Secret is known as ours.
const managedBy, manager = "app.kubernetes.io/managed-by", "fleet-keys"

// Keeper keeps the two Secrets complete.
type Keeper struct {
	// Secrets of the namespace.
	Secrets clientv1.SecretInterface
	// Keys names the Secret of keys.
	Keys string
	// Brought says that somebody else makes the Secret of keys: it is waited for, and
	// completed then, as a name that is mistaken must not give an install new keys.
	Brought bool
	// TLS names the Secret with the broker's certificate; "" keeps none.
	TLS string
	// Hosts, names or addresses, at which the broker is reached.
	Hosts []string
	Log   logr.Logger
	Now   func() time.Time
}

// Rules is what a Keeper may do, and nothing else: RBAC cannot limit creation to a
// name.
func Rules(names ...string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: names, Verbs: []string{"get", "update"}},
	}
}

// Run keeps both Secrets until ctx ends. It never gives up.
func (k Keeper) Run(ctx context.Context) {
	problem := ""
	for {
		wait := lookInterval
		if err := k.Ensure(ctx); err != nil && ctx.Err() == nil {
			wait = retryInterval
			if text := err.Error(); text != problem {
				problem = text
				k.Log.Error(err, "keys are not complete, trying again")
			}
		} else {
			problem = ""
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Ensure looks at both Secrets once, and adds what is missing.
func (k Keeper) Ensure(ctx context.Context) error {
	keys, err := k.ensure(ctx, k.Keys, func(held *corev1.Secret) (reason string, err error) {
		if k.Brought && held.ResourceVersion == "" {
			return "", errors.New("it is not there, and is to be brought along")
		}
		var made []string
		held.Data, made, err = Complete(held.Data)
		return strings.Join(made, " "), err
	})
	if err != nil || k.TLS == "" {
		return err
	}
	_, err = k.ensure(ctx, k.TLS, func(held *corev1.Secret) (reason string, err error) {
		if held.ResourceVersion != "" && held.Labels[managedBy] != manager {
			return "", errors.New("it is there and was not made here: name it as the existing certificate of the broker, or remove it")
		}
		held.Type, held.Labels = corev1.SecretTypeTLS, map[string]string{managedBy: manager}
		held.Data, reason, err = Certify(held.Data, keys.Data, k.Hosts, k.Now())
		return reason, err
	})
	return err
}

// ensure writes what change makes of a Secret, when it tells a reason, and returns
// the Secret.
func (k Keeper) ensure(ctx context.Context, name string, change func(*corev1.Secret) (reason string, err error)) (*corev1.Secret, error) {
	for try := 1; ; try++ {
		held, err := k.Secrets.Get(ctx, name, metav1.GetOptions{})
		write := func() error { _, err := k.Secrets.Update(ctx, held, metav1.UpdateOptions{}); return err }
		if apierrors.IsNotFound(err) {
			held, err = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
			write = func() error { _, err := k.Secrets.Create(ctx, held, metav1.CreateOptions{}); return err }
		}
		if err != nil {
			return nil, fmt.Errorf("reading the Secret %s: %w", name, err)
		}
		reason, err := change(held)
		if err != nil {
			return nil, fmt.Errorf("the Secret %s: %w", name, err)
		}
		if reason == "" {
			return held, nil
		}
		err = write()
		if err == nil {
			k.Log.Info("wrote a Secret", "secret", name, "reason", reason)
			return held, nil
		}
		if raced := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err); !raced || try == tries {
			return nil, fmt.Errorf("writing the Secret %s: %w", name, err)
		}
	}
}
