package prove_test

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/nationtech/harmony-fleet/gen/install"
	"github.com/nationtech/harmony-fleet/gen/kustomize"
	"github.com/nationtech/harmony-fleet/gen/plant"
	"github.com/nationtech/harmony-fleet/gen/tree"
)

// onDisk is everything below kustomize, and an overlay of the base with components.
func onDisk(t *testing.T, generated tree.Tree, components ...string) map[string]any {
	t.Helper()
	disk := filesys.MakeFsInMemory()
	for path, content := range generated {
		if err := disk.WriteFile("/"+path, content); err != nil {
			t.Fatal(err)
		}
	}
	overlay := map[string]any{"resources": []string{"../kustomize/base"}}
	var chosen []string
	for _, name := range components {
		chosen = append(chosen, "../kustomize/components/"+name)
	}
	overlay["components"] = chosen
	if err := disk.WriteFile("/overlay/kustomization.yaml", must(json.Marshal(overlay))); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, "/overlay")
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]any{}
	for _, r := range built.Resources() {
		plain, err := r.Map()
		if err != nil {
			t.Fatal(err)
		}
		if r.GetKind() == "Namespace" || strings.HasSuffix(r.GetName(), ".jetstream.nats.io") {
			continue // which the builders leave to Helm
		}
		objects[r.GetKind()+" "+r.GetName()] = plain
	}
	return objects
}

// TestKustomize: the base, alone and with each component and with all of them, is
// what the builders return.
func TestKustomize(t *testing.T) {
	t.Parallel()
	generated, err := kustomize.Files("../..")
	if err != nil {
		t.Fatal(err)
	}
	sameSpecs(t, string(generated[kustomize.Dir+"/crds/fleet.yaml"]))
	choices := [][]kustomize.Component{nil, kustomize.Components()}
	for _, c := range kustomize.Components() {
		choices = append(choices, []kustomize.Component{c})
	}
	for _, choice := range choices {
		v := install.Defaults()
		var names []string
		for _, c := range choice {
			c.Change(&v)
			names = append(names, c.Name)
		}
		want := map[string]any{}
		built := install.Build(v, kustomize.Release())
		delete(built, install.TestFile) // a hook of Helm's
		for _, objects := range built {
			for _, object := range objects {
				var plain map[string]any
				if err := json.Unmarshal(must(json.Marshal(object)), &plain); err != nil {
					t.Fatal(err)
				}
				name := plain["metadata"].(map[string]any)["name"].(string)
				want[plain["kind"].(string)+" "+name] = plant.Clean(plain)
			}
		}
		got := map[string]any{}
		for id, plain := range onDisk(t, generated, names...) {
			var same any
			if err := json.Unmarshal(must(json.Marshal(plain)), &same); err != nil {
				t.Fatal(err)
			}
			got[id] = same
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
			t.Fatalf("%v: %s", names, diff)
		}
		for id := range want {
			// Several components change one checksum, of which the last patch stays.
			if diff := cmp.Diff(want[id], got[id]); diff != "" && !(len(names) > 1 && onlyChecksum(want[id], got[id])) {
				t.Errorf("%v: %s: (- builders, + kustomize) %s", names, id, diff)
			}
		}
	}
}

// TestOpenShift: on OpenShift no pod asks for a user, a group or anything of its node,
// which its standard constraint (restricted-v2) would refuse. The control is the
// base, which asks for a user.
func TestOpenShift(t *testing.T) {
	t.Parallel()
	generated, err := kustomize.Files("../..")
	if err != nil {
		t.Fatal(err)
	}
	refused := regexp.MustCompile(`"(runAsUser|runAsGroup|fsGroup|supplementalGroups|hostNetwork|hostPID|hostIPC|hostPort|hostPath|seLinuxOptions)":`)
	pods := func(components ...string) (count int, asks []string) {
		for id, object := range onDisk(t, generated, components...) {
			if kind, _, _ := strings.Cut(id, " "); kind != "Deployment" && kind != "StatefulSet" {
				continue
			}
			count++
			for _, found := range refused.FindAllString(string(must(json.Marshal(object))), -1) {
				asks = append(asks, id+": "+found)
			}
		}
		return count, asks
	}
	if _, asks := pods(); len(asks) == 0 {
		t.Error("the base asks for nothing, so that this says nothing")
	}
	for _, components := range [][]string{{"openshift"}, {"openshift", "high-availability", "monitoring"}} {
		if count, asks := pods(components...); count < 5 || len(asks) > 0 {
			t.Errorf("%v: of %d pods some ask for %q", components, count, asks)
		}
	}
}

var bareChecksum = regexp.MustCompile(`"checksum/config":"[0-9a-f]{64}"`)

func onlyChecksum(want, got any) bool {
	blank := func(v any) any {
		var plain any
		if err := json.Unmarshal(bareChecksum.ReplaceAll(must(json.Marshal(v)), []byte(`"checksum/config":""`)), &plain); err != nil {
			panic(err)
		}
		return plain
	}
	return reflect.DeepEqual(blank(want), blank(got))
}

// TestExamplesAreInTheirKustomization: whoever applies the folder applies all of it.
func TestExamplesAreInTheirKustomization(t *testing.T) {
	t.Parallel()
	generated, err := kustomize.Files("../..")
	if err != nil {
		t.Fatal(err)
	}
	list := string(generated["kustomize/examples/fleet/kustomization.yaml"])
	for _, path := range generated.Paths() {
		name := filepath.Base(path)
		if strings.HasPrefix(path, "kustomize/examples/fleet/") && name != "kustomization.yaml" && !strings.Contains(list, "- "+name) {
			t.Errorf("%s is not in the kustomization", path)
		}
	}
}
