// Package kustomize makes the Kustomize base, which is what the builders return for
// the defaults, and components, which are what changes when some values do. It
// never runs kustomize: everything is plain objects and JSON patches.
package kustomize

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nationtech/harmony-fleet/gen/chart"
	"github.com/nationtech/harmony-fleet/gen/install"
	"github.com/nationtech/harmony-fleet/gen/plant"
	"github.com/nationtech/harmony-fleet/gen/tree"
	"github.com/nationtech/harmony-fleet/gen/values"
)

// Dir holds the base, the components and the examples.
const Dir = "kustomize"

// The definitions are in a folder of their own: kubectl applies resources of a kind
// only once the API server serves it.
const (
	definitionsDir = Dir + "/crds/"
	baseDir        = Dir + "/base/"
	// nackFile has NACK's.
	nackFile = "nack.yaml"
	// fleetFile has the fleet's.
	fleetFile = "fleet.yaml"
)

// Release is the one of the base. Its names stand inside configurations, where
// kustomize does not look, so an overlay must leave them alone.
func Release() install.Release {
	return install.Release{Name: install.Product, Namespace: "fleet-system", Version: install.Version}
}

// build leaves out what Helm alone knows what to do with.
func build(v values.Values) map[string][]any {
	built := install.Build(v, Release())
	delete(built, install.TestFile)
	return built
}

// Component is a change of the values that an overlay can choose.
type Component struct {
	Name, Why string
	Change    func(*values.Values)
}

// Components are all of them. No two change the same place.
func Components() []Component {
	return []Component{
		{"high-availability", "Three brokers that hold every stream thrice, and an operator that waits for the other to fail.", func(v *values.Values) {
			v.NATS.Replicas, v.Operator.Replicas = 3, 2
		}},
		{"monitoring", "ServiceMonitors and alerts for the Prometheus operator, and a dashboard for Grafana.", func(v *values.Values) {
			v.Monitoring = values.Monitoring{Prometheus: true, Dashboard: true}
		}},
		{"openshift", "No fixed user: the cluster chooses one for each namespace.", func(v *values.Values) {
			v.PodSecurity.RunAsUser = nil
		}},
		{"cert-manager", "The broker's certificate comes from cert-manager, by an Issuer with the name harmony-fleet.", func(v *values.Values) {
			v.NATS.TLS.Source, v.NATS.TLS.Issuer.Name = "certManager", install.Product
		}},
	}
}

// Files generates everything below Dir for the module whose root is the folder root.
func Files(root string) (tree.Tree, error) {
	files, err := base(root)
	if err != nil {
		return nil, fmt.Errorf("the base: %w", err)
	}
	for _, c := range Components() {
		made, err := component(c)
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", c.Name, err)
		}
		maps.Copy(files, made)
	}
	for _, part := range []func() (tree.Tree, error){examples, argoCD} {
		made, err := part()
		if err != nil {
			return nil, err
		}
		maps.Copy(files, made)
	}
	return files, nil
}

// kustomization is what is used of kustomize's file.
type kustomization struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Resources  []string `json:"resources,omitempty"`
	Patches    []patch  `json:"patches,omitempty"`
}

type patch struct {
	Target target `json:"target"`
	Patch  string `json:"patch"`
}

type target struct {
	Group   string `json:"group,omitempty"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
	Name    string `json:"name"`
}

func resources(names ...string) kustomization {
	return kustomization{APIVersion: "kustomize.config.k8s.io/v1beta1", Kind: "Kustomization", Resources: names}
}

// definitions are those of the kinds that the base has resources of.
func definitions(root string, fleets []any) (tree.Tree, error) {
	files := tree.Tree{}
	var err error
	if files[definitionsDir+nackFile], err = chart.NACKDefinitions(root); err != nil {
		return nil, err
	}
	if files[definitionsDir+fleetFile], err = render("", fleets...); err != nil {
		return nil, err
	}
	files[definitionsDir+"kustomization.yaml"], err = render("The kinds of resources; the API server has to know them before it takes the base.", resources(fleetFile, nackFile))
	return files, err
}

// base is one file of objects for each of the builders', and the definitions.
func base(root string) (tree.Tree, error) {
	built := build(install.Defaults())
	files, err := definitions(root, built[install.CRDsFile])
	if err != nil {
		return nil, err
	}
	delete(built, install.CRDsFile)
	const first = "namespace.yaml"
	built[first] = []any{namespace()}
	names := []string{"../crds", first}
	for _, name := range slices.Sorted(maps.Keys(built)) {
		if len(built[name]) == 0 {
			continue
		}
		if files[baseDir+name], err = render("", built[name]...); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if name != first {
			names = append(names, name)
		}
	}
	files[baseDir+"kustomization.yaml"], err = render("The installation that chose nothing; see docs/values.md.", resources(names...))
	return files, err
}

// namespace demands of pods what they are made for. Argo CD leaves it when it takes
// the rest away, since keys and the broker's data would go with it.
func namespace() *corev1.Namespace {
	return &corev1.Namespace{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        Release().Namespace,
			Labels:      map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
			Annotations: map[string]string{"argocd.argoproj.io/sync-options": "Prune=false,Delete=false"},
		},
	}
}

// component is what is new and what changes.
func component(c Component) (tree.Tree, error) {
	dir := Dir + "/components/" + c.Name + "/"
	v := install.Defaults()
	before, err := index(build(v))
	if err != nil {
		return nil, err
	}
	c.Change(&v)
	after, err := index(build(v))
	if err != nil {
		return nil, err
	}
	files := tree.Tree{}
	k := kustomization{APIVersion: "kustomize.config.k8s.io/v1alpha1", Kind: "Component"}
	var added []any
	for _, id := range slices.SortedFunc(maps.Keys(after), func(a, b target) int { return cmp.Compare(a.String(), b.String()) }) {
		old, known := before[id]
		if !known {
			added = append(added, after[id])
			continue
		}
		if steps := difference("", old, after[id]); len(steps) > 0 {
			text, err := yaml.Marshal(steps)
			if err != nil {
				return nil, fmt.Errorf("printing the patch of %v: %w", id, err)
			}
			k.Patches = append(k.Patches, patch{id, string(text)})
		}
	}
	for id := range before {
		if after[id] == nil {
			return nil, fmt.Errorf("it takes %v away, which a component cannot", id)
		}
	}
	if len(added) > 0 {
		k.Resources = []string{"objects.yaml"}
		if files[dir+"objects.yaml"], err = render("", added...); err != nil {
			return nil, err
		}
	}
	files[dir+"kustomization.yaml"], err = render(c.Why, k)
	return files, err
}

// index finds objects by what a patch aims at.
func index(built map[string][]any) (map[target]map[string]any, error) {
	all := map[target]map[string]any{}
	for file, objects := range built {
		for _, object := range objects {
			plain, err := plainOf(object)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			group, version, grouped := strings.Cut(plain["apiVersion"].(string), "/")
			if !grouped {
				group, version = "", group
			}
			name := plain["metadata"].(map[string]any)["name"].(string)
			all[target{group, version, plain["kind"].(string), name}] = plain
		}
	}
	return all, nil
}

func (t target) String() string { return t.Kind + " " + t.Name }

func plainOf(object any) (map[string]any, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encoding an object: %w", err)
	}
	var plain map[string]any
	if err := yaml.Unmarshal(data, &plain); err != nil {
		return nil, fmt.Errorf("decoding an object: %w", err)
	}
	return plant.Clean(plain).(map[string]any), nil
}

// render is a file of documents.
func render(comment string, objects ...any) ([]byte, error) {
	var out strings.Builder
	out.WriteString("# Generated by `go run ./gen` from gen/install; do not edit.\n")
	if comment != "" {
		out.WriteString("# " + comment + "\n")
	}
	for i, object := range objects {
		plain, err := plainOf(object)
		if err != nil {
			return nil, err
		}
		text, err := yaml.Marshal(plain)
		if err != nil {
			return nil, fmt.Errorf("printing an object: %w", err)
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(text)
	}
	return []byte(out.String()), nil
}
