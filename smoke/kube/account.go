package kube

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// accountLifetime of a token, in seconds: a day, longer than any test.
const accountLifetime = 24 * 3600

// Account makes a service account that may do in the whole cluster what the rules
// say, as a program or a person would be set up, and returns how it reaches the
// cluster, also as a kubeconfig file in the folder. Its name begins with name.
func (c *ControlPlane) Account(ctx context.Context, dir, name string, rules []rbacv1.PolicyRule) (config *rest.Config, kubeconfig string, err error) {
	clients, err := kubernetes.NewForConfig(c.Config())
	if err != nil {
		return nil, "", fmt.Errorf("making a client: %w", err)
	}
	const namespace = metav1.NamespaceDefault
	meta := metav1.ObjectMeta{Name: name + "-" + strings.ToLower(rand.Text()[:8])}
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: meta.Name}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
	}
	if _, err = clients.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		return nil, "", fmt.Errorf("making account %q: %w", name, err)
	}
	if _, err = clients.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return nil, "", fmt.Errorf("making the role of account %q: %w", name, err)
	}
	if _, err = clients.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return nil, "", fmt.Errorf("binding the role of account %q: %w", name, err)
	}
	token, err := clients.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, meta.Name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(accountLifetime))},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, "", fmt.Errorf("making the token of account %q: %w", name, err)
	}
	config = rest.AnonymousClientConfig(c.Config())
	config.BearerToken, config.QPS = token.Status.Token, -1
	kubeconfig = filepath.Join(dir, meta.Name+".kubeconfig")
	return config, kubeconfig, writeKubeconfig(kubeconfig, config)
}
