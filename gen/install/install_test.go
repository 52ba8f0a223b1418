package install_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	corev1 "k8s.io/api/core/v1"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/gen/install"
	"github.com/nationtech/harmony-fleet/gen/values"
	"github.com/nationtech/harmony-fleet/operator/program"
)

// fields are the paths of a configuration's fields in JSON.
func fields(t reflect.Type, path string) (all []string) {
	if t.Kind() != reflect.Struct {
		return []string{path}
	}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		all = append(all, fields(t.Field(i).Type, strings.TrimPrefix(path+"."+name, "."))...)
	}
	return all
}

// TestEveryFieldIsDecided: what a program can be told is a value, or the
// installation decides it. A new field of a configuration is forgotten by nobody.
func TestEveryFieldIsDecided(t *testing.T) {
	for name, c := range map[string]struct {
		program, chosen reflect.Type
		decided         []string
	}{
		"operator": {
			reflect.TypeFor[config.OperatorConfig](), reflect.TypeFor[values.OperatorConfig](),
			[]string{
				"leaderElection.enabled", "leaderElection.namespace", "metricsAddress", "probeAddress", "profileAddress",
				"publish.caFile", "publish.configMap", "publish.natsURL", "signing.keyFiles",
			},
		},
		"callout": {
			reflect.TypeFor[config.CalloutConfig](), reflect.TypeFor[values.CalloutConfig](),
			[]string{"issuerKeyFile", "metricsAddress", "probeAddress", "xkeyFile"},
		},
	} {
		chosen := fields(c.chosen, "")
		var rest []string
		for _, path := range fields(c.program, "") {
			if !slices.Contains(chosen, path) && !strings.HasPrefix(path, "nats.") && !strings.HasPrefix(path, "credentials.") {
				rest = append(rest, path)
			}
		}
		slices.Sort(rest)
		if diff := cmp.Diff(c.decided, rest); diff != "" {
			t.Errorf("%s: (- decided here, + not a value) %s", name, diff)
		}
	}
}

func defaults() map[string][]any {
	v := install.Defaults()
	v.Monitoring = values.Monitoring{Prometheus: true, Dashboard: true}
	return install.Build(v, install.Release{Name: "rel", Namespace: "ns", Version: "1"})
}

// TestConfigurationsAreValid: with the defaults the programs read what they need.
func TestConfigurationsAreValid(t *testing.T) {
	read := func(file string) string {
		path := filepath.Join(t.TempDir(), "config.yaml")
		text := defaults()[file][0].(*corev1.ConfigMap).Data["config.yaml"]
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := program.ReadConfig(read(install.OperatorConfigFile), config.OperatorDefaults()); err != nil {
		t.Error(err)
	}
	if _, err := program.ReadConfig(read(install.CalloutConfigFile), config.CalloutDefaults()); err != nil {
		t.Error(err)
	}
}

// TestMetricsExist: alerts and dashboard ask for nothing that no program measures.
func TestMetricsExist(t *testing.T) {
	var source strings.Builder
	err := filepath.WalkDir(filepath.Join("..", "..", "operator"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		source.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]bool{}
	name := regexp.MustCompile(`\bfleet_[a-z_]+`)
	for _, object := range defaults()["monitoring.yaml"] {
		var text string
		switch o := object.(type) {
		case *monitoring.PrometheusRule:
			for _, rule := range o.Spec.Groups[0].Rules {
				text += rule.Expr.String() + "\n"
			}
		case *corev1.ConfigMap:
			text = o.Data["harmony-fleet.json"]
			if !json.Valid([]byte(text)) {
				t.Error("the dashboard is no JSON")
			}
		}
		for _, metric := range name.FindAllString(text, -1) {
			asked[strings.TrimSuffix(metric, "_bucket")] = true
		}
	}
	if len(asked) < 12 {
		t.Errorf("only %d metrics are asked for", len(asked))
	}
	for metric := range asked {
		if !strings.Contains(source.String(), `"`+metric+`"`) {
			t.Errorf("nothing measures %s", metric)
		}
	}
}

// TestNamesAreShort: with the longest name of a release every name is one that a
// Service and a label can have.
func TestNamesAreShort(t *testing.T) {
	const longest = 53
	release := strings.Repeat("r", longest)
	for _, objects := range install.Build(install.Defaults(), install.Release{Name: release, Namespace: "ns", Version: "1"}) {
		for _, object := range objects {
			if o, isService := object.(*corev1.Service); isService && len(o.Name) > 63 {
				t.Errorf("%s has %d characters", o.Name, len(o.Name))
			}
		}
	}
}
