package stories

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/nationtech/harmony-fleet/smoke/cluster"
	"github.com/nationtech/harmony-fleet/smoke/tools"
)

// kustomized installs the Kustomize base, and has the API
// server find that the chart with its defaults would change nothing.
func kustomized(ctx context.Context, c *cluster.Cluster) error {
	return installing(ctx, c, func(i *installation) error {
		if err := i.supply(ctx); err != nil {
			return err
		}
		for _, step := range []struct {
			what string
			run  func(context.Context) error
		}{
			{"kubectl apply -k, once for the kinds and once for the base, makes everything ready", i.applyBase},
			{"the chart without values has the same objects, and applying them would change none", i.sameAsChart},
			{"kubectl delete -k removes all of it", i.deleteBase},
		} {
			if err := i.Step(step.what, func() error { return step.run(ctx) }); err != nil {
				return err
			}
		}
		return nil
	})
}

func (i *installation) kustomization(name string) string {
	return filepath.Join(i.tree.Root, "kustomize", name)
}

// applyBase does as docs/install.md says.
func (i *installation) applyBase(ctx context.Context) error {
	r, err := i.read(ctx, "docs/install.md", tools.Helm)
	if err != nil {
		return err
	}
	if err := r.follow(ctx, "With Kustomize", 0); err != nil {
		return err
	}
	return i.ready(ctx)
}

// ready waits until all of it is.
func (i *installation) ready(ctx context.Context) error {
	for _, args := range [][]string{
		{"rollout", "status", "statefulset/" + product + "-nats", "--timeout=3m"},
		{"wait", "--for=condition=Available", "deployment", "--all", "--timeout=3m"},
		{"wait", "--for=condition=Ready", "streams.jetstream.nats.io", "--all", "--timeout=3m"},
	} {
		if _, err := i.Kubectl(ctx, "", append([]string{"--namespace=" + namespace}, args...)...); err != nil {
			return errors.Join(err, i.logs(ctx))
		}
	}
	return nil
}

// sameAsChart compares in both directions: what one of the two lacks is in no
// difference that the API server sees.
func (i *installation) sameAsChart(ctx context.Context) error {
	archive, err := i.pack()
	if err != nil {
		return err
	}
	chart, err := i.helm.Render(ctx, product, archive, nil)
	if err != nil {
		return err
	}
	base, err := i.Kubectl(ctx, "", "kustomize", i.kustomization("base"))
	if err != nil {
		return err
	}
	want, err := objects(chart)
	if err != nil {
		return err
	}
	got, err := objects(base)
	if err != nil {
		return err
	}
	delete(got, "Namespace "+namespace) // which Helm does not make
	if names, others := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(names, others) {
		return fmt.Errorf("the base has %q, and the chart %q", names, others)
	}
	list := unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "v1", "kind": "List"}}
	for name, object := range want {
		if err := spellLike(object, got[name]); err != nil {
			return err
		}
		list.Items = append(list.Items, *object)
	}
	manifest, err := list.MarshalJSON()
	if err != nil {
		return fmt.Errorf("encoding what the chart has: %w", err)
	}
	// As the one who applied the base, so that what the chart lacks would go.
	if changes, err := i.Kubectl(ctx, string(manifest), "diff", "--server-side", "--filename=-"); err != nil {
		return fmt.Errorf("%w\n%s", err, changes)
	}
	return nil
}

// objects are those of YAML documents, by kind and name.
func objects(manifest string) (map[string]*unstructured.Unstructured, error) {
	all := map[string]*unstructured.Unstructured{}
	for decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096); ; {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading a manifest: %w", err)
		}
		if object.Object != nil {
			all[object.GetKind()+" "+object.GetName()] = object
		}
	}
}

// spellLike takes away what may differ: Helm quotes more in a file inside a ConfigMap,
// of which a pod's annotation has the checksum.
func spellLike(object, other *unstructured.Unstructured) error {
	files, _, err := unstructured.NestedStringMap(object.Object, "data")
	for name, text := range files {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		var plain any
		if err := yaml.Unmarshal([]byte(text), &plain); err != nil {
			return fmt.Errorf("reading %s of %s: %w", name, object.GetName(), err)
		}
		again, err := yaml.Marshal(plain)
		if err != nil {
			return fmt.Errorf("printing %s of %s: %w", name, object.GetName(), err)
		}
		files[name] = string(again)
	}
	if err == nil && files != nil {
		err = unstructured.SetNestedStringMap(object.Object, files, "data")
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", object.GetName(), err)
	}
	checksum := []string{"spec", "template", "metadata", "annotations", "checksum/config"}
	sum, found, err := unstructured.NestedString(other.Object, checksum...)
	if err == nil && found {
		err = unstructured.SetNestedField(object.Object, sum, checksum...)
	}
	return err
}

// deleteBase removes what runs first: NACK would put its finalizers back.
func (i *installation) deleteBase(ctx context.Context) error {
	if _, err := i.Kubectl(ctx, "", "--namespace="+namespace, "delete", "deployments.apps,statefulsets.apps", "--all", "--cascade=foreground", "--timeout=2m"); err != nil {
		return err
	}
	if err := i.release(ctx); err != nil {
		return err
	}
	_, err := i.Kubectl(ctx, "", "delete", "--kustomize="+i.kustomization("base"), "--ignore-not-found", "--timeout=3m")
	return err
}
