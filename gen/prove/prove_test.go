package prove_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	kubeyaml "sigs.k8s.io/yaml"

	"github.com/nationtech/harmony-fleet/apis/crds"
	generated "github.com/nationtech/harmony-fleet/gen/chart"
	"github.com/nationtech/harmony-fleet/gen/install"
	"github.com/nationtech/harmony-fleet/gen/kustomize"
	"github.com/nationtech/harmony-fleet/gen/prove"
)

// TestEveryLeafAlone changes each value in some ten ways, with all gates as they are by
// default, open, and where others must be shut.
func TestEveryLeafAlone(t *testing.T) {
	t.Parallel()
	for i, base := range bases() {
		t.Run(fmt.Sprintf("base %d", i), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.run(base)
			for i, l := range leaves() {
				for _, value := range l.others(fmt.Sprintf("it's 100%% {{ %q: %d }}", "x", i)) {
					b.run(base.with(trial{l.path: value}))
				}
			}
			b.done()
		})
	}
}

// TestHostileTexts gives each text to all leaves that take it, with a number by
// which an exchange of two is seen.
func TestHostileTexts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, text := range hostile() {
		all := trial{}
		for i, l := range leaves() {
			for _, value := range l.others(text) {
				if !strings.Contains(string(trial{l.path: value}.file()), strings.Trim(string(must(json.Marshal(text))), `"`)) || b.refuses(l.path, value) {
					continue
				}
				if s, isText := value.(string); isText && l.typ.Kind() == reflect.String && !b.refuses(l.path, s+fmt.Sprint(i)) {
					value = s + fmt.Sprint(i)
				}
				all[l.path] = value
			}
		}
		if len(all) < 10 {
			t.Errorf("%q goes into %d leaves alone", text, len(all))
		}
		for _, base := range bases()[1:] {
			b.run(base.with(all))
		}
	}
	b.done()
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

// refuses tells whether the schema refuses a value in place of the default.
func (b *bench) refuses(path string, value any) bool {
	return b.schema.Validate(replaced(b.chart.Values, strings.Split(path, "."), value)) != nil
}

// replaced is the map with another value at the path; the rest is shared.
func replaced(values map[string]any, path []string, value any) map[string]any {
	changed := maps.Clone(values)
	if changed == nil {
		changed = map[string]any{}
	}
	if len(path) == 1 {
		changed[path[0]] = value
		return changed
	}
	inner, _ := values[path[0]].(map[string]any)
	changed[path[0]] = replaced(inner, path[1:], value)
	return changed
}

func TestEveryPairOfGates(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	all := gates()
	paths := slices.Sorted(maps.Keys(all))
	for i, one := range paths {
		for _, first := range all[one] {
			b.run(open().with(trial{one: first}))
			for _, other := range paths[i+1:] {
				for _, second := range all[other] {
					b.run(trial{one: first, other: second})
				}
			}
		}
	}
	b.done()
}

func TestRandomValues(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	random := rand.New(rand.NewPCG(7, 7))
	texts, gates := hostile(), gates()
	for b.equal < randomTrials {
		chosen := trial{}
		for path, options := range gates {
			chosen[path] = options[random.IntN(len(options))]
		}
		for _, l := range leaves() {
			if options := l.others(texts[random.IntN(len(texts))]); random.IntN(2) == 0 && gates[l.path] == nil {
				if value := options[random.IntN(len(options))]; !b.refuses(l.path, value) {
					chosen[l.path] = value
				}
			}
		}
		b.run(chosen)
	}
	b.done()
}

// TestDefinitions: the definitions arrive as they are, and stay out when they shall.
func TestDefinitions(t *testing.T) {
	t.Parallel()
	all, err := files()
	if err != nil {
		t.Fatal(err)
	}
	c, err := prove.Chart(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, enabled := range []bool{true, false} {
		top, err := prove.Join(c, trial{"crds.enabled": enabled}.file(), releases[0])
		if err != nil {
			t.Fatal(err)
		}
		first, err := prove.Render(c, top)
		if err != nil {
			t.Fatal(err)
		}
		v := install.Defaults()
		v.CRDs.Enabled = enabled
		if err := compare(first, build(v, releases[0])); err != nil {
			t.Error(err)
		}
		if enabled {
			sameSpecs(t, first[definitions])
		}
		second, err := prove.Render(c, top)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("two renderings differ: %s", diff)
		}
	}
}

// sameSpecs holds definitions against those that the operator was built with, letter
// by letter: what is compared elsewhere was cleaned before.
func sameSpecs(t *testing.T, text string) {
	t.Helper()
	found := 0
	for _, document := range strings.Split("\n"+text, "\n---\n") {
		if strings.TrimSpace(document) == "" {
			continue
		}
		got := &apiextensionsv1.CustomResourceDefinition{}
		if err := strict(document, got); err != nil {
			t.Fatal(err)
		}
		for _, want := range crds.All() {
			if want.Name == got.Name {
				found++
				if diff := cmp.Diff(want.Spec, got.Spec); diff != "" {
					t.Errorf("%s: (- built with, + installed) %s", got.Name, diff)
				}
			}
		}
	}
	if found != len(crds.All()) {
		t.Errorf("%d definitions are installed, want %d", found, len(crds.All()))
	}
}

// TestDefaults: what values.yaml says is what Defaults says.
func TestDefaults(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	v, err := decode(b.chart.Values)
	if err != nil {
		t.Fatal(err)
	}
	got, want := must(json.Marshal(v)), must(json.Marshal(install.Defaults()))
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
	if err := prove.Check(b.chart, nil); err != nil {
		t.Errorf("the schema refuses the defaults: %v", err)
	}
	if err := prove.Check(b.chart, []byte("global: {a: {b: c}}\nenabled: true\n")); err != nil {
		t.Errorf("the schema refuses what charts that have this one give it: %v", err)
	}
}

// TestNull: a value that may be null can be made so, though Helm takes the key away
// then.
func TestNull(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, l := range leaves() {
		if l.typ.Kind() == reflect.Pointer && l.typ.Elem().Kind() != reflect.Struct {
			b.run(trial{l.path: nil})
		}
	}
	if b.refused > 0 || b.equal < 2 {
		t.Errorf("%d are refused, and %d are not", b.refused, b.equal)
	}
}

// TestSecurityTeam: what a security team starts from is taken, and renders as built.
func TestSecurityTeam(t *testing.T) {
	t.Parallel()
	var values trial
	if err := kubeyaml.Unmarshal(must(os.ReadFile("../../docs/security-values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	for range releases {
		b.run(values)
	}
	if b.refused > 0 {
		t.Errorf("%d are refused", b.refused)
	}
}

// TestSchemaKnowsEveryKey: a key that is misspelt is refused at each level.
func TestSchemaKnowsEveryKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	levels := map[string]bool{"": true, "nats.resources.": true, "scheduling.affinity.": true}
	for _, l := range leaves() {
		names := strings.Split(l.path, ".")
		for depth := range names {
			if depth > 0 {
				levels[strings.Join(names[:depth], ".")+"."] = true
			}
		}
	}
	if len(levels) < 20 {
		t.Errorf("there are %d levels only", len(levels))
	}
	for level := range levels {
		if !b.refuses(level+"mispelt", "x") {
			t.Errorf("the schema takes %smispelt", level)
		}
	}
}

// TestLeaves counts what a person has to look at, and holds names against YAML 1.1,
// which reads some as booleans.
func TestLeaves(t *testing.T) {
	t.Parallel()
	count := 0
	for _, l := range leaves() {
		for _, name := range strings.Split(l.path, ".") {
			if slices.Contains([]string{"y", "n", "yes", "no", "on", "off"}, strings.ToLower(name)) {
				t.Errorf("%s has a name that YAML takes for a boolean", l.path)
			}
		}
		if !strings.Contains(l.path, ".config.") {
			count++
		}
	}
	t.Logf("%d values, and %d in the programs' configuration", count, len(leaves())-count)
	if count > maxLeaves {
		t.Errorf("there are %d values outside the programs' configuration, want at most %d", count, maxLeaves)
	}
}

// TestChecksums: pods are made anew when their configuration changes, and not
// when another's does.
func TestChecksums(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	sums := func(values trial) map[string]string {
		top, err := prove.Join(b.chart, values.file(), releases[1])
		if err != nil {
			t.Fatal(err)
		}
		rendered, err := prove.Render(b.chart, top)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, file := range []string{"nats.yaml", "operator.yaml", "callout.yaml"} {
			found[file] = checksums.FindString(rendered[file])
		}
		return found
	}
	before := sums(nil)
	for path, file := range map[string]string{
		"operator.config.logLevel": "operator.yaml", "callout.config.logLevel": "callout.yaml",
	} {
		after := sums(trial{path: "debug"})
		for other := range before {
			if changed := after[other] != before[other]; changed != (other == file) || after[other] == "" {
				t.Errorf("%s changes: the checksum in %s becomes %q from %q", path, other, after[other], before[other])
			}
		}
	}
	if after := sums(trial{"nats.replicas": 3}); after["nats.yaml"] == before["nats.yaml"] {
		t.Error("nats.replicas changes, and the checksum of the broker's configuration does not")
	}
}

// TestNothingIsLeft: the chart's folder has no file that is not generated, which
// would be installed too.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	all, err := files()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join("..", "..")
	bases, err := kustomize.Files("../..")
	if err != nil {
		t.Fatal(err)
	}
	all = maps.Clone(all)
	maps.Copy(all, bases)
	for _, folder := range []string{generated.Dir, kustomize.Dir} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err == nil && all[filepath.ToSlash(name)] == nil {
				t.Errorf("%s is not generated; take it away", name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
