package plant_test

import (
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nationtech/harmony-fleet/gen/plant"
)

// choices has one value of each kind.
type choices struct {
	Name   string            `json:"name"`
	Hint   string            `json:"hint,omitempty"`
	Mode   string            `json:"mode"`
	On     bool              `json:"on"`
	Also   bool              `json:"also"`
	Number int               `json:"number"`
	Maybe  *int64            `json:"maybe"`
	Hosts  []string          `json:"hosts,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

// templates of one ConfigMap; use has every value in it that the build leaves out.
func templates(build func(choices, map[string]string)) (text, definitions string, err error) {
	release := plant.Fact(0)
	files, definitions, err := plant.Templates(plant.Source[choices]{
		Name: "toy", Enums: map[string][]string{"mode": {"fast", "safe"}}, Facts: map[string]string{".Release.Name": release},
		Build: func(c choices) map[string][]any {
			data := map[string]string{}
			build(c, data)
			use := &corev1.PodTemplate{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodTemplate"}, ObjectMeta: metav1.ObjectMeta{Name: release, Labels: c.Labels}}
			use.Annotations = map[string]string{"name": c.Name, "hint": c.Hint, "mode": c.Mode, "on": strconv.FormatBool(c.On), "also": strconv.FormatBool(c.Also)}
			use.Finalizers = c.Hosts
			use.Template.Spec.ActiveDeadlineSeconds = c.Maybe
			use.Template.Spec.Priority = new(int32(c.Number))
			return map[string][]any{"a.yaml": {&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: release}, Data: data}}, "b.yaml": {use}}
		},
	})
	return files["a.yaml"], definitions, err
}

// TestForms: what a builder does with plain Go becomes what a person would write.
func TestForms(t *testing.T) {
	for name, c := range map[string]struct {
		build func(choices, map[string]string)
		want  string
	}{
		"whole value":  {func(c choices, d map[string]string) { d["k"] = c.Name }, `  k: {{ .Values.name | quote }}`},
		"within text":  {func(c choices, d map[string]string) { d["k"] = "100% " + c.Name + "!" }, `  k: {{ printf "100%% %s!" .Values.name | quote }}`},
		"gate":         {func(c choices, d map[string]string) { d["a"] = ""; when(c.On, d, "k", "v") }, "  {{- if .Values.on }}\n  k: v\n  {{- end }}"},
		"not":          {func(c choices, d map[string]string) { d["a"] = ""; when(!c.On, d, "k", "v") }, "  {{- if not .Values.on }}"},
		"and":          {func(c choices, d map[string]string) { d["a"] = ""; when(c.On && c.Also, d, "k", "v") }, "  {{- if and .Values.on .Values.also }}"},
		"or":           {func(c choices, d map[string]string) { d["a"] = ""; when(c.On || c.Also, d, "k", "v") }, "  {{- if or .Values.on .Values.also }}"},
		"one of few":   {func(c choices, d map[string]string) { d["a"] = ""; when(c.Mode == "safe", d, "k", "v") }, `  {{- if eq .Values.mode "safe" }}`},
		"none of one":  {func(c choices, d map[string]string) { d["a"] = ""; when(c.Mode != "safe", d, "k", "v") }, `  {{- if ne .Values.mode "safe" }}`},
		"above 1":      {func(c choices, d map[string]string) { d["a"] = ""; when(c.Number > 1, d, "k", "v") }, `  {{- if gt (int64 .Values.number) 1 }}`},
		"is there":     {func(c choices, d map[string]string) { d["a"] = ""; when(c.Maybe != nil, d, "k", "v") }, `  {{- if not (kindIs "invalid" .Values.maybe) }}`},
		"braces":       {func(_ choices, d map[string]string) { d["k"] = "a {{ b }} c" }, `  k: a {{ "{{" }} b }} c`},
		"text":         {func(c choices, d map[string]string) { d["k"] = lines("a: {", opt(c.On, "  b"), "}") }, "  k: |\n    a: {\n    {{- if .Values.on }}\n      b\n    {{- end }}\n    }"},
		"inner YAML":   {func(c choices, d map[string]string) { d["c.yaml"] = "x:\n  z: " + c.Name + "\n" }, "  c.yaml: |\n    x:\n      z: {{ .Values.name | quote }}"},
		"release name": {func(_ choices, d map[string]string) { d["k"] = plant.Fact(0) + "-x" }, `  k: {{ printf "%s-x" .Release.Name | quote }}`},
	} {
		t.Run(name, func(t *testing.T) {
			text, _, err := templates(c.build)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text, c.want+"\n") {
				t.Errorf("got\n%s\nwithout\n%s", text, c.want)
			}
		})
	}
}

func when(on bool, data map[string]string, key, value string) {
	if on {
		data[key] = value
	}
}

func opt(on bool, line string) string {
	if on {
		return line
	}
	return ""
}

func lines(all ...string) string {
	var out strings.Builder
	for _, line := range all {
		if line != "" {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

// TestFallback: a choice between texts gets a name, after what decides it.
func TestFallback(t *testing.T) {
	text, definitions, err := templates(func(c choices, d map[string]string) {
		d["k"] = "fallback"
		if c.Hint != "" {
			d["k"] = c.Hint
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := `  k: {{ include "toy.hint" . | quote }}`; !strings.Contains(text, want) {
		t.Errorf("got\n%s\nwithout %s", text, want)
	}
	if want := `{{ if .Values.hint }}{{ .Values.hint }}{{ else }}fallback{{ end }}`; !strings.Contains(definitions, want) {
		t.Errorf("got\n%s\nwithout %s", definitions, want)
	}
}

// TestRefusals: what templates cannot say is an error that names it.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		build func(choices, map[string]string)
		want  string
	}{
		"upper case":       {func(c choices, d map[string]string) { d["k"] = strings.ToUpper(c.Name) }, "is left in"},
		"a piece":          {func(c choices, d map[string]string) { d["k"] = c.Name[:len(c.Name)-1] + "qz2" }, "is left in"},
		"number in a text": {func(c choices, d map[string]string) { d["k"] = "n" + strconv.Itoa(c.Number) }, "planted number"},
		"beside an element": {func(c choices, d map[string]string) {
			d["c.yaml"] = "a: 1\nl:\n"
			for _, host := range c.Hosts {
				d["c.yaml"] += "- " + host + c.Name + "\n"
			}
		}, "an element of hosts stands beside another value"},
		"pasted": {func(c choices, d map[string]string) { d["k"] = "a\n" + c.Name + "\n" }, "name is pasted into a text"},
		"parity": {func(c choices, d map[string]string) {
			d["a"] = ""
			when((c.On != c.Also) != (c.Maybe != nil), d, "k", "v")
		}, "/data/k: it comes and goes"},
	} {
		t.Run(name, func(t *testing.T) {
			if text, _, err := templates(c.build); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want %q:\n%s", err, c.want, text)
			}
		})
	}
}

// TestUnused: a value without influence is an error.
func TestUnused(t *testing.T) {
	type one struct {
		Used   string `json:"used"`
		Unused string `json:"unused"`
	}
	_, _, err := plant.Templates(plant.Source[one]{Build: func(v one) map[string][]any {
		return map[string][]any{"a": {&corev1.ConfigMap{Data: map[string]string{"k": v.Used}}}}
	}})
	if err == nil || !strings.Contains(err.Error(), "the value unused influences nothing") {
		t.Errorf("got %v", err)
	}
}
