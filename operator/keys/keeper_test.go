package keys_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nationtech/harmony-fleet/operator/keys"
	"github.com/nationtech/harmony-fleet/smoke/kube"
)

func TestMain(m *testing.M) { os.Exit(kube.RunTests(m)) }

// install is a namespace of a real cluster, with a keeper that has its documented
// rights alone.
type install struct {
	*testing.T
	admin     *kubernetes.Clientset
	namespace string
	keeper    keys.Keeper
	log       *bytes.Buffer
}

func newInstall(t *testing.T) *install {
	t.Helper()
	config := kube.Shared(t).Config()
	i := &install{T: t, admin: kubernetes.NewForConfigOrDie(config), log: &bytes.Buffer{}}
	namespace, err := i.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "keys-"}}, metav1.CreateOptions{})
	i.must(err)
	i.namespace = namespace.Name
	user := "keeper-" + i.namespace
	_, err = i.admin.RbacV1().Roles(i.namespace).Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "keys"}, Rules: keys.Rules("keys", "tls"),
	}, metav1.CreateOptions{})
	i.must(err)
	_, err = i.admin.RbacV1().RoleBindings(i.namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "keys"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "keys"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	i.must(err)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	i.keeper = keys.Keeper{
		Secrets: kubernetes.NewForConfigOrDie(config).CoreV1().Secrets(i.namespace),
		Keys:    "keys", TLS: "tls", Hosts: []string{"nats"}, Now: time.Now, Log: i.logger(),
	}
	return i
}

func (i *install) logger() logr.Logger {
	var mu sync.Mutex
	return funcr.New(func(prefix, args string) {
		mu.Lock()
		defer mu.Unlock()
		i.log.WriteString(prefix + args + "\n")
	}, funcr.Options{})
}

func (i *install) must(err error) {
	i.Helper()
	if err != nil {
		i.Fatal(err)
	}
}

// ensure looks until the rights have come to count.
func (i *install) ensure() {
	i.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := i.keeper.Ensure(i.Context())
		if err == nil {
			return
		}
		if !apierrors.IsForbidden(err) || time.Now().After(end) {
			i.Fatal(err)
		}
	}
}

func (i *install) secret(name string) *corev1.Secret {
	i.Helper()
	s, err := i.admin.CoreV1().Secrets(i.namespace).Get(i.Context(), name, metav1.GetOptions{})
	i.must(err)
	return s
}

// TestEnsure: both Secrets are made once, and what is removed from them is made
// again. The log has no value.
func TestEnsure(t *testing.T) {
	i := newInstall(t)
	i.ensure()
	made, cert := i.secret("keys"), i.secret("tls")
	if cert.Type != corev1.SecretTypeTLS || made.Type != corev1.SecretTypeOpaque {
		t.Errorf("the types are %s and %s", made.Type, cert.Type)
	}
	if err := trusted(t, cert.Data, "nats"); err != nil {
		t.Error(err)
	}
	i.ensure()
	if i.secret("keys").ResourceVersion != made.ResourceVersion || i.secret("tls").ResourceVersion != cert.ResourceVersion {
		t.Error("complete Secrets are written again")
	}
	i.keeper.Hosts = []string{"nats", "fleet.example.com"}
	i.must(i.admin.CoreV1().Secrets(i.namespace).Delete(t.Context(), "keys", metav1.DeleteOptions{}))
	i.ensure()
	if bytes.Equal(i.secret("keys").Data["operator.seed"], made.Data["operator.seed"]) {
		t.Error("a removed key came back")
	}
	if err := trusted(t, i.secret("tls").Data, "fleet.example.com"); err != nil {
		t.Error(err)
	}
	for name, value := range i.secret("keys").Data {
		if strings.HasSuffix(name, ".pub") || name == keys.AuthorityCert {
			continue
		}
		if strings.Contains(i.log.String(), string(value)) {
			t.Errorf("the log has %s", name)
		}
	}
}

// TestRace: any number may do this at the same time, and all see the same keys.
func TestRace(t *testing.T) {
	i := newInstall(t)
	i.ensure()
	for _, name := range []string{"keys", "tls"} {
		i.must(i.admin.CoreV1().Secrets(i.namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	var racing sync.WaitGroup
	for range 8 {
		racing.Go(func() {
			if err := i.keeper.Ensure(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	racing.Wait()
	if got := strings.Count(i.log.String(), "wrote a Secret"); got != 4 {
		t.Errorf("Secrets were written %d times, want 4:\n%s", got, i.log)
	}
	if err := trusted(t, i.secret("tls").Data, "nats"); err != nil {
		t.Error(err)
	}
}

// TestForeign: what a person put there is completed or left alone, never replaced.
func TestForeign(t *testing.T) {
	i := newInstall(t)
	i.ensure()
	own := complete(t, nil)["signing.seed"]
	secrets := i.admin.CoreV1().Secrets(i.namespace)
	put := func(name string, data map[string][]byte) {
		t.Helper()
		i.must(secrets.Delete(t.Context(), name, metav1.DeleteOptions{}))
		_, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
		i.must(err)
	}
	put("keys", map[string][]byte{"signing.seed": own})
	i.ensure()
	if got := i.secret("keys").Data; !bytes.Equal(got["signing.seed"], own) || len(got["signing.pub"]) == 0 {
		t.Error("the person's key was not kept, or not completed")
	}
	bad := map[string][]byte{"signing.seed": []byte("hunter2")}
	put("keys", bad)
	if err := i.keeper.Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "signing.seed") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(bad, i.secret("keys").Data); diff != "" {
		t.Error(diff)
	}
	put("keys", nil)
	put("tls", bad)
	if err := i.keeper.Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "the Secret tls") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(bad, i.secret("tls").Data); diff != "" {
		t.Error(diff)
	}
}

// TestBrought: a Secret of keys that somebody else makes is waited for.
func TestBrought(t *testing.T) {
	i := newInstall(t)
	i.ensure()
	brought := i.secret("keys")
	i.must(i.admin.CoreV1().Secrets(i.namespace).Delete(t.Context(), "keys", metav1.DeleteOptions{}))
	i.keeper.Brought = true
	if err := i.keeper.Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "the Secret keys: it is not there") {
		t.Errorf("got %v", err)
	}
	if _, err := i.admin.CoreV1().Secrets(i.namespace).Get(t.Context(), "keys", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it made the Secret: %v", err)
	}
	delete(brought.Data, keys.AdminPassword)
	_, err := i.admin.CoreV1().Secrets(i.namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "keys"}, Data: brought.Data}, metav1.CreateOptions{})
	i.must(err)
	i.must(i.keeper.Ensure(t.Context()))
	if held := i.secret("keys").Data; len(held[keys.AdminPassword]) == 0 || !bytes.Equal(held["operator.seed"], brought.Data["operator.seed"]) {
		t.Error("it is not completed as it was brought")
	}
}

// TestRights: it can neither list the Secrets of the namespace, nor read others,
// nor remove its own.
func TestRights(t *testing.T) {
	i := newInstall(t)
	i.ensure()
	_, err := i.admin.CoreV1().Secrets(i.namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{})
	i.must(err)
	for what, do := range map[string]func() error{
		"read another Secret": func() error { _, err := i.keeper.Secrets.Get(t.Context(), "other", metav1.GetOptions{}); return err },
		"listed Secrets":      func() error { _, err := i.keeper.Secrets.List(t.Context(), metav1.ListOptions{}); return err },
		"removed its own":     func() error { return i.keeper.Secrets.Delete(t.Context(), "keys", metav1.DeleteOptions{}) },
	} {
		if err := do(); !apierrors.IsForbidden(err) {
			t.Errorf("it %s: %v", what, err)
		}
	}
}

// TestRun: it goes on after an error, which it tells once.
func TestRun(t *testing.T) {
	i := newInstall(t)
	i.ensure()
	i.must(i.admin.RbacV1().RoleBindings(i.namespace).Delete(t.Context(), "keys", metav1.DeleteOptions{}))
	told := make(chan string, 100)
	i.keeper.Log = funcr.New(func(_, args string) { told <- args }, funcr.Options{})
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if apierrors.IsForbidden(i.keeper.Ensure(t.Context())) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("rights that were taken still count")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { i.keeper.Run(ctx) })
	defer running.Wait()
	defer cancel()
	if line := <-told; !strings.Contains(line, "not complete") {
		t.Errorf("it says %s", line)
	}
	i.must(i.admin.CoreV1().Secrets(i.namespace).Delete(t.Context(), "keys", metav1.DeleteOptions{}))
	_, err := i.admin.RbacV1().RoleBindings(i.namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "keys"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "keys"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "keeper-" + i.namespace}},
	}, metav1.CreateOptions{})
	i.must(err)
	select {
	case line := <-told:
		if !strings.Contains(line, "wrote a Secret") {
			t.Errorf("then it says %s", line)
		}
	case <-time.After(time.Minute):
		t.Error("it does not come back in a minute")
	}
}
