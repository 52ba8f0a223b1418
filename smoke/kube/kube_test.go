package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nationtech/harmony-fleet/smoke/tools"
)

func TestMain(m *testing.M) {
	code := RunTests(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func client(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// What a person does in the demo: the built kubectl with the kubeconfig.
func TestKubectl(t *testing.T) {
	plane := Shared(t)
	kubectl, err := tools.Build(t.Context(), tools.Kubectl, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), kubectl, "--kubeconfig", plane.Kubeconfig(), "version", "--output=json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var versions struct{ ClientVersion, ServerVersion version.Info }
	if err := json.Unmarshal(out, &versions); err != nil {
		t.Fatal(err)
	}
	client, server := versions.ClientVersion.GitVersion, versions.ServerVersion.GitVersion
	if client != server || !strings.HasPrefix(server, "v1.") {
		t.Errorf("kubectl is %q, the API server %q", client, server)
	}
}

func TestNamespaceDeletionCompletes(t *testing.T) {
	namespaces := client(t, Shared(t).Config()).CoreV1().Namespaces()
	ns, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "deletion-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := namespaces.Delete(t.Context(), ns.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace is gone", func() bool {
		_, err := namespaces.Get(t.Context(), ns.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

func TestGarbageCollection(t *testing.T) {
	maps := client(t, Shared(t).Config()).CoreV1().ConfigMaps("default")
	owner, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "owner-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owned, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		GenerateName:    "owned-",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(t.Context(), owner.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the owned object is gone", func() bool {
		_, err := maps.Get(t.Context(), owned.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

func TestClusterRolesAggregate(t *testing.T) {
	roles := client(t, Shared(t).Config()).RbacV1().ClusterRoles()
	eventually(t, "the role view holds what it is made of", func() bool {
		view, err := roles.Get(t.Context(), "view", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(view.Rules) > 0
	})
}

// The API server reads the configuration, and ends with the reason when it makes
// no sense; people who log in for real are a test of operator/access.
func TestAuthenticationIsRead(t *testing.T) {
	_, err := Start(t.Context(), Options{Progress: io.Discard, Authentication: []byte(`
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt: [{issuer: {url: "http://127.0.0.1", audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ""}}}]
`)})
	if err == nil || !strings.Contains(err.Error(), "URL scheme must be https") {
		t.Errorf("an issuer without TLS: %v", err)
	}
}

func TestRBACIsOn(t *testing.T) {
	config := Shared(t).Config()
	config.Impersonate.UserName = "nobody-in-particular"
	_, err := client(t, config).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a user without roles lists secrets: %v", err)
	}
}

func TestInstallCRDs(t *testing.T) {
	config := Shared(t).Config()
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.smoke.example.org"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "smoke.example.org",
			Scope: apiextensionsv1.ClusterScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
			}},
		},
	}
	for range 2 { // installing again is no error
		if err := InstallCRDs(t.Context(), config, []*apiextensionsv1.CustomResourceDefinition{crd}); err != nil {
			t.Fatal(err)
		}
	}
	widgets := dynamic.NewForConfigOrDie(config).Resource(schema.GroupVersionResource{Group: "smoke.example.org", Version: "v1", Resource: "widgets"})
	widget := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "smoke.example.org/v1", "kind": "Widget", "metadata": map[string]any{"name": "one"},
	}}
	if _, err := widgets.Create(t.Context(), widget, metav1.CreateOptions{}); err != nil {
		t.Errorf("the API server does not serve what was installed: %v", err)
	}
}

func TestAPIServerStopsAndStarts(t *testing.T) {
	plane := Shared(t)
	maps := client(t, plane.Config()).CoreV1().ConfigMaps("default")
	kept, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "kept-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := plane.PIDs()
	if err := plane.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(t.Context(), kept.Name, metav1.GetOptions{}); err == nil {
		t.Error("the API server answers after StopAPIServer")
	}
	begin := time.Now()
	if err := plane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("ready again after %s", time.Since(begin).Round(time.Millisecond))
	if _, err := maps.Get(t.Context(), kept.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("the same client on the same data: %v", err)
	}
	after := plane.PIDs()
	if before["etcd"] != after["etcd"] || before["kube-apiserver"] == after["kube-apiserver"] || len(after) != 3 {
		t.Errorf("want a new API server on the old etcd, got %v after %v", after, before)
	}
}

func TestExisting(t *testing.T) {
	plane, err := Existing(Shared(t).Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client(t, plane.Config()).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if err := plane.StopAPIServer(); !errors.Is(err, ErrExisting) {
		t.Errorf("StopAPIServer() = %v, want %v", err, ErrExisting)
	}
	if err := plane.Stop(); err != nil || len(plane.PIDs()) != 0 {
		t.Errorf("Stop() = %v with processes %v", err, plane.PIDs())
	}
	if _, err := client(t, Shared(t).Config()).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
		t.Errorf("stopping an existing cluster must not touch it: %v", err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	begin := time.Now()
	plane, err := Start(t.Context(), Options{Progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %s", time.Since(begin).Round(time.Millisecond))
	pids := plane.PIDs()
	for range 2 {
		if err := plane.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	for name, pid := range pids {
		if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
			t.Errorf("%s (pid %d) is still there: %v", name, pid, err)
		}
	}
	if _, err := os.Stat(plane.dir); !os.IsNotExist(err) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
}

func TestDataOutlivesAControlPlaneWithAFolder(t *testing.T) {
	dir := t.TempDir()
	var names [2][]string
	for i := range names {
		plane, err := Start(t.Context(), Options{Dir: dir, Fsync: true})
		if err != nil {
			t.Fatal(err)
		}
		maps := client(t, plane.Config()).CoreV1().ConfigMaps("default")
		if i == 0 {
			if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
		}
		list, err := maps.List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=kept"})
		if err != nil {
			t.Error(err)
		}
		for _, item := range list.Items {
			names[i] = append(names[i], item.Name)
		}
		if err := plane.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(names[0], names[1]); diff != "" {
		t.Error(diff)
	}
}

// A folder where etcd cannot keep its data makes it end at once.
func TestFailedStartSaysWhyAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "etcd"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "last lines") || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("the error must carry etcd's log, got: %v", err)
	}
}

func TestCancelledStart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := Start(ctx, Options{}); err == nil || time.Since(begin) > 10*time.Second {
		t.Errorf("Start() = %v after %s", err, time.Since(begin))
	}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute in vain: %s", what)
		}
	}
}
