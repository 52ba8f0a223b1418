package prove_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/chart"
	corev1 "k8s.io/api/core/v1"
	kubejson "sigs.k8s.io/json"
	kubeyaml "sigs.k8s.io/yaml"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	generated "github.com/nationtech/harmony-fleet/gen/chart"
	"github.com/nationtech/harmony-fleet/gen/install"
	"github.com/nationtech/harmony-fleet/gen/plant"
	"github.com/nationtech/harmony-fleet/gen/prove"
	"github.com/nationtech/harmony-fleet/gen/tree"
	"github.com/nationtech/harmony-fleet/gen/values"
)

const (
	// randomTrials are files of values in which everything is chosen at random.
	randomTrials = 200
	// maxLeaves bounds what a person has to look at, beside the programs' configuration.
	maxLeaves = 40
	// definitions are the largest file and the same for all values but one.
	definitions = "crds.yaml"
)

// Two releases: a template that says the name of one literally is found by the
// other, whose names YAML takes for something else.
var releases = []prove.Release{{Name: "1e3", Namespace: "true"}, {Name: "harmony-fleet", Namespace: "fleet-system"}}

var files = sync.OnceValues(func() (tree.Tree, error) { return generated.Files("../..") })

// bench is what trials run on.
type bench struct {
	*testing.T
	chart  *chart.Chart
	schema *jsonschema.Schema

	equal, refused int
}

// newBench loads the chart without the definitions, which would be most of the time.
func newBench(t *testing.T) *bench {
	t.Helper()
	all, err := files()
	if err != nil {
		t.Fatal(err)
	}
	all = maps.Clone(all)
	delete(all, generated.Dir+"/templates/"+definitions)
	c, err := prove.Chart(all)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(c.Schema))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("file:///values.schema.json", schema); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("file:///values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return &bench{T: t, chart: c, schema: compiled}
}

// run renders the trial both ways and compares.
func (b *bench) run(t trial) {
	b.Helper()
	release := releases[(b.equal+b.refused)%len(releases)]
	refused, err := b.try(t, release)
	if err != nil {
		b.Errorf("%s as %v: %v", t.file(), release, err)
	}
	if refused {
		b.refused++
	} else {
		b.equal++
	}
}

// try tells whether the trial is refused, and what differs if it is not.
func (b *bench) try(t trial, release prove.Release) (refused bool, err error) {
	top, err := prove.Join(b.chart, t.file(), release)
	if err != nil {
		return false, err
	}
	joined, err := top.Table("Values")
	if err != nil {
		return false, err
	}
	delete(joined, "global") // of charts that have charts
	v, refusal := decode(joined)
	if problem := b.schema.Validate(joined.AsMap()); problem != nil {
		return true, unexplained(problem, refusal)
	}
	if refusal != nil {
		return false, fmt.Errorf("the schema takes it, and the types do not: %w", refusal)
	}
	rendered, err := prove.Render(b.chart, top)
	if err != nil {
		return false, err
	}
	want := build(v, release)
	delete(want, definitions)
	return false, compare(rendered, want)
}

// unexplained is a refusal by the schema of what the types can hold, unless it is
// null, or none of few, or out of bounds.
func unexplained(problem, refusal error) error {
	reasons := []string{"missing propert", "got null", "value must be one of", "minimum", "maximum", "minLength", "does not match pattern", "anyOf"}
	explained := slices.ContainsFunc(reasons, func(reason string) bool { return strings.Contains(problem.Error(), reason) })
	if refusal == nil && (!explained || strings.Contains(problem.Error(), "additional properties")) {
		return fmt.Errorf("the schema alone refuses it: %w", problem)
	}
	return nil
}

// decode reads joined values strictly into nothing but zeros.
func decode(joined map[string]any) (v values.Values, err error) {
	data, err := json.Marshal(joined)
	if err != nil {
		return v, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(&v)
	if v.Scheduling.Affinity != nil && reflect.ValueOf(*v.Scheduling.Affinity).IsZero() {
		v.Scheduling.Affinity = nil // `{}` means none
	}
	return v, err
}

func build(v values.Values, r prove.Release) map[string][]any {
	none := map[string]string{install.NATSConfigFile: "", install.OperatorConfigFile: "", install.CalloutConfigFile: ""}
	return install.Build(v, install.Release{Name: r.Name, Namespace: r.Namespace, Version: install.Version, Sums: none})
}

var checksums = regexp.MustCompile(`(checksum/config: )"[0-9a-f]{64}"`)

// compare holds rendered files against objects.
func compare(rendered map[string]string, want map[string][]any) error {
	for file, objects := range want {
		text := checksums.ReplaceAllString(rendered[file], `$1""`)
		// Most values change few files; the others need no second look.
		pair := sha256.Sum256(append([]byte(file+"\x00"+text+"\x00"), must(json.Marshal(objects))...))
		if _, known := equal.Load(pair); known {
			continue
		}
		if err := compareFile(text, objects); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		equal.Store(pair, true)
	}
	for file, text := range rendered {
		if want[file] == nil && strings.TrimSpace(text) != "" && strings.HasSuffix(file, ".yaml") {
			return fmt.Errorf("%s: has objects, want none:\n%s", file, text)
		}
	}
	return nil
}

// equal has the pairs of a text and objects that were found to be equal.
var equal sync.Map

// compareFile compares typed, since texts that mean the same differ.
func compareFile(text string, objects []any) error {
	if err := noFloats(text); err != nil {
		return err
	}
	var documents []string
	for _, document := range strings.Split("\n"+text, "\n---\n") {
		if strings.TrimSpace(document) != "" {
			documents = append(documents, document)
		}
	}
	if len(documents) != len(objects) {
		return fmt.Errorf("%d objects, want %d:\n%s", len(documents), len(objects), text)
	}
	for i, object := range objects {
		got := reflect.New(reflect.TypeOf(object).Elem()).Interface()
		if err := strict(documents[i], got); err != nil {
			return fmt.Errorf("%w in\n%s", err, documents[i])
		}
		diff, err := difference(object, got)
		if err != nil {
			return err
		}
		if diff != "" {
			return fmt.Errorf("(- builder, + chart) %s", diff)
		}
	}
	return nil
}

// strict reads YAML, in which no key is twice and no field unknown.
func strict(document string, into any) error {
	data, err := kubeyaml.YAMLToJSONStrict([]byte(document))
	if err != nil {
		return err
	}
	problems, err := kubejson.UnmarshalStrict(data, into)
	if err == nil && len(problems) > 0 {
		err = fmt.Errorf("%v", problems)
	}
	return err
}

// noFloats finds integers that Helm printed as floats, which types would hide.
func noFloats(text string) error {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	for {
		var document yaml.Node
		if err := decoder.Decode(&document); err != nil {
			return nil //nolint:nilerr // the end, or what the strict reader complains of
		}
		if err := noFloat(&document); err != nil {
			return err
		}
	}
}

func noFloat(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!float" && !slices.Contains([]string{"0.5", "1.5"}, n.Value) {
		return fmt.Errorf("the number %s is no integer", n.Value)
	}
	for _, child := range n.Content {
		if err := noFloat(child); err != nil {
			return err
		}
	}
	return nil
}

func difference(want, got any) (string, error) {
	var plain [2]any
	for i, object := range []any{want, got} {
		if m, isMap := object.(*corev1.ConfigMap); isMap {
			copied := m.DeepCopy()
			if err := readConfig(copied); err != nil {
				return "", err
			}
			object = copied
		}
		data, err := json.Marshal(object)
		if err != nil {
			return "", err
		}
		if err := json.Unmarshal(data, &plain[i]); err != nil {
			return "", err
		}
		plain[i] = plant.Clean(plain[i])
	}
	return cmp.Diff(plain[0], plain[1]), nil
}

// readConfig puts what a program reads from its file in place of the text.
func readConfig(m *corev1.ConfigMap) error {
	text, has := m.Data["config.yaml"]
	if !has {
		return nil
	}
	var c any = &config.OperatorConfig{}
	if m.Labels["app.kubernetes.io/component"] == "callout" {
		c = &config.CalloutConfig{}
	}
	if err := noFloats(text); err != nil {
		return err
	}
	if err := kubeyaml.UnmarshalStrict([]byte(text), c); err != nil {
		return fmt.Errorf("config.yaml: %w", err)
	}
	data, err := kubeyaml.Marshal(c)
	m.Data["config.yaml"] = string(data)
	return err
}

// done tells how many trials there were; a test in which all are refused is none.
func (b *bench) done() {
	b.Logf("%d equal, %d refused", b.equal, b.refused)
	if b.equal == 0 {
		b.Error("nothing was compared")
	}
}
