package kustomize_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	_ "sigs.k8s.io/gateway-api/apis/v1" // for the module's definitions

	"github.com/nationtech/harmony-fleet/gen/install"
	"github.com/nationtech/harmony-fleet/gen/kustomize"
	"github.com/nationtech/harmony-fleet/gen/values"
	"github.com/nationtech/harmony-fleet/smoke/kube"
)

func TestMain(m *testing.M) { os.Exit(kube.RunTests(m)) }

// patience is how long the API server may take to serve a kind that is new.
const patience = time.Minute

// read returns the objects of the generated files in some folders, in order.
func read(t *testing.T, folders ...string) (all []*unstructured.Unstructured) {
	t.Helper()
	files, err := kustomize.Files("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !slices.Contains(folders, path.Dir(name)) || path.Base(name) == "kustomization.yaml" {
			continue
		}
		decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(string(files[name])), 4096)
		for {
			o := &unstructured.Unstructured{}
			if err := decoder.Decode(o); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if len(o.Object) > 0 {
				all = append(all, o)
			}
		}
	}
	if len(all) == 0 {
		t.Fatalf("there are no objects in %v", folders)
	}
	// As kubectl and Argo CD have it: what others need comes first.
	rank := func(o *unstructured.Unstructured) int {
		switch o.GetKind() {
		case "Namespace":
			return 0
		case "CustomResourceDefinition":
			return 1
		}
		return 2
	}
	slices.SortStableFunc(all, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
	return all
}

// apply applies an object on the server and waits while its kind is new there.
func apply(t *testing.T, api client.Client, o *unstructured.Unstructured, options ...client.ApplyOption) *unstructured.Unstructured {
	t.Helper()
	copied := o.DeepCopy()
	options = append(options, client.FieldOwner("harmony-fleet-test"), client.ForceOwnership)
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := api.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(copied), options...)
		if err == nil {
			return copied
		}
		if !strings.Contains(err.Error(), "no matches for kind") && !strings.Contains(err.Error(), "could not find the requested resource") || time.Now().After(deadline) {
			t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// routes are the definitions of Gateway API's routes for connections: of TLSRoute the
// standard one, and TCPRoute is in the experimental channel alone.
func routes(t *testing.T) (all []*unstructured.Unstructured) {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"standard/gateway.networking.k8s.io_tlsroutes.yaml", "experimental/gateway.networking.k8s.io_tcproutes.yaml"} {
		data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config", "crd", file))
		if err != nil {
			t.Fatal(err)
		}
		definition := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(data, definition); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, definition)
	}
	return all
}

// TestClusterAcceptsTheBase applies all of it, twice: the second time nothing
// changes, so that Argo CD sees no drift. Every pod is fit for the restricted
// standard, which the base demands of its namespace.
func TestClusterAcceptsTheBase(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := clientscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	api, err := client.New(kube.Shared(t).Config(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	base := read(t, kustomize.Dir+"/crds", kustomize.Dir+"/base")
	for _, o := range base {
		first := apply(t, api, o)
		second := apply(t, api, o)
		if o.GetKind() == "CustomResourceDefinition" {
			continue // its status changes by itself
		}
		if first.GetResourceVersion() != second.GetResourceVersion() {
			t.Errorf("applying %s %s again changes it", o.GetKind(), o.GetName())
		}
	}
	// Which a controller makes in every namespace, and the pod of `helm test` has.
	account := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ServiceAccount"}}
	account.SetNamespace(kustomize.Release().Namespace)
	account.SetName("default")
	apply(t, api, account)
	for _, o := range read(t, kustomize.Dir+"/examples/fleet") {
		apply(t, api, o)
	}
	exposed := 0
	for _, definition := range routes(t) {
		apply(t, api, definition)
	}
	for _, o := range read(t, kustomize.Dir+"/examples/exposure") {
		if o.GetKind() == "Route" {
			continue // OpenShift's, whose definition no module has
		}
		exposed++
		if o.GetKind() != "Service" {
			apply(t, api, o, client.DryRunAll)
			continue
		}
		want, _, err := unstructured.NestedString(o.Object, "spec", "type")
		if err != nil {
			t.Fatal(err)
		}
		patch, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := api.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, patch), client.DryRunAll); err != nil {
			t.Fatalf("the example of a %s: %v", want, err)
		}
		if got, _, err := unstructured.NestedString(o.Object, "spec", "type"); err != nil || got != want {
			t.Errorf("the Service becomes %q, %v, want %q", got, err, want)
		}
	}
	if exposed != 4 {
		t.Errorf("%d examples of exposure were tried", exposed)
	}
	changed := install.Defaults()
	for _, c := range kustomize.Components() {
		c.Change(&changed)
	}
	changed.Trust.ConfigMap, changed.Keys.ExistingSecret = "authorities", "mine"
	pods := 0
	for _, v := range []values.Values{install.Defaults(), changed} {
		for file, objects := range install.Build(v, kustomize.Release()) {
			for _, object := range objects {
				pods += admit(t, api, object)
				plain, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
				if err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				o := &unstructured.Unstructured{Object: plain}
				if strings.HasPrefix(o.GetAPIVersion(), "monitoring.") || strings.HasPrefix(o.GetAPIVersion(), "cert-manager.") {
					continue // of operators that are not here
				}
				apply(t, api, o, client.DryRunAll)
			}
		}
	}
	if pods < 9 {
		t.Errorf("only %d pods were tried", pods)
	}
}

// admit has the API server look at the pod that a workload would make.
func admit(t *testing.T, api client.Client, object any) int {
	t.Helper()
	var template corev1.PodTemplateSpec
	switch o := object.(type) {
	case *appsv1.Deployment:
		template = o.Spec.Template
	case *appsv1.StatefulSet:
		template = o.Spec.Template
		for _, claim := range o.Spec.VolumeClaimTemplates {
			template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		}
	default:
		return 0
	}
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Namespace, pod.GenerateName = kustomize.Release().Namespace, "try-"
	if err := api.Create(context.Background(), pod, client.DryRunAll); err != nil {
		t.Errorf("the pod of %s: %v", object.(metav1.Object).GetName(), err)
	}
	return 1
}
