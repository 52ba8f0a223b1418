package prove_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/gen/values"
)

// leaf is one value, found by reflection.
type leaf struct {
	path string
	typ  reflect.Type
}

// leaves are all values.
func leaves() []leaf { return below(reflect.TypeFor[values.Values](), "") }

func below(t reflect.Type, path string) (all []leaf) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		at := strings.TrimPrefix(path+"."+name, ".")
		if field.Type.Kind() == reflect.Struct && strings.HasPrefix(field.Type.PkgPath(), "github.com/nationtech/") {
			all = append(all, below(field.Type, at)...)
		} else {
			all = append(all, leaf{at, field.Type})
		}
	}
	return all
}

// hostile texts are what YAML, Go, templates and shells take for something else.
func hostile() []string {
	return []string{
		"", " ", "~", "null", "true", "no", "0", "-1", "1e3", "0x10", "010", "1.10", "12:30:45", "1_000", ".inf", "=",
		"'", `"`, `\`, `\n`, "a: b", "a #b", "- a", "? a", "*a", "&a", "!a", "%a", "100%d%s", "@a", "`a`", "|", ">", "{", "}", "[", "]", ",",
		"{{", "}}", "{{ .Values.image.tag }}", "{{- fail \"x\" }}", "{{/* */}}", "$(HOME)", "${x}", "$x", "---", "...", "a\nb", "a\n", "\ta", "a\rb",
		"ä", "€", "😀", "\ufeff", "\u00a0", strings.Repeat("x", 300), "UPPER case", " a ", "<a>&b",
	}
}

// others are the JSON of values that the leaf may be given; some are refused.
func (l leaf) others(text string) []any {
	switch {
	case l.typ == reflect.TypeFor[resource.Quantity]():
		return []any{"1000m", "0.5", 0.5, "10", 10, "1e3", "1024Mi", "20Gi", "", text, nil}
	case l.typ == reflect.TypeFor[config.Duration]():
		return []any{"90s", "1h", "1.5h", "60m0s", "0s", "100000h", "1d", 5, "", text, nil}
	}
	switch l.typ.Kind() {
	case reflect.String:
		return []any{text, "plain", "", 1, true, nil, []any{}}
	case reflect.Bool:
		return []any{true, false, "false", 0, nil}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return []any{0, 1, 2, 3, 17, 1234567, 2147483647, 2147483648, -1, 1.5, "3", "1e3", nil}
	case reflect.Pointer:
		switch l.typ.Elem().Kind() {
		case reflect.String:
			return []any{nil, "", text, "plain", 5}
		case reflect.Int64:
			return []any{nil, 0, 1, 65532, 1234567, 9007199254740991, 9007199254740992, "0"}
		}
	case reflect.Map:
		return []any{map[string]any{}, map[string]any{"a": text}, map[string]any{"a.b/c": "x", text + "k": "y"}, map[string]any{"a": 1}, nil}
	case reflect.Slice:
		if l.typ.Elem().Kind() == reflect.String {
			return []any{[]any{}, []any{"a.example.com"}, []any{"a", "10.0.0.1", "::1"}, []any{text}, []any{1}, nil}
		}
	}
	return blocks(l.typ, text)
}

// blocks are values of the types of Kubernetes.
func blocks(t reflect.Type, text string) []any {
	var all []any
	for _, given := range map[string][]string{
		"[]v1.LocalObjectReference": {`[]`, `[{"name": "pull"}, {"name": TEXT}]`, `[{"nam": "x"}]`, `null`},
		"v1.ResourceRequirements": {
			`{}`, `{"limits": {"cpu": "1", "memory": "1Gi"}}`, `{"requests": {"cpu": 0.5, "memory": 1234567}, "limits": {"cpu": "1500m"}}`,
			`{"limts": {}}`, `{"requests": {"cpu": "much"}}`, `null`,
		},
		"[]v1.Toleration": {
			`[]`, `[{"key": "edge", "operator": "Exists", "effect": "NoSchedule"}]`, `[{"key": TEXT, "value": TEXT, "tolerationSeconds": 1234567}]`,
			`[{"kee": "x"}]`, `null`,
		},
		"*v1.Affinity": {
			`{}`, `{"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": [TEXT, "b"]}]}]}}}`,
			`{"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": TEXT}}}}]}}`,
			`{"nodeAffinty": {}}`, `null`,
		},
	}[t.String()] {
		quoted, err := json.Marshal(text)
		if err != nil {
			panic(err)
		}
		var value any
		if err := json.Unmarshal([]byte(strings.ReplaceAll(given, "TEXT", string(quoted))), &value); err != nil {
			panic(fmt.Sprintf("%s: %v", given, err))
		}
		all = append(all, value)
	}
	if all == nil {
		panic("no values for " + t.String())
	}
	return all
}

// trial is a file of values, by their paths.
type trial map[string]any

// file is the trial as a person writes it.
func (t trial) file() []byte {
	root := map[string]any{}
	for path, value := range t {
		at, names := root, strings.Split(path, ".")
		for _, name := range names[:len(names)-1] {
			if at[name] == nil {
				at[name] = map[string]any{}
			}
			at = at[name].(map[string]any)
		}
		at[names[len(names)-1]] = value
	}
	data, err := json.Marshal(root) // which is YAML
	if err != nil {
		panic(err)
	}
	return data
}

// with is the trial with further values.
func (t trial) with(more trial) trial {
	all := trial{}
	for _, values := range []trial{t, more} {
		for path, value := range values {
			all[path] = value
		}
	}
	return all
}

// open has every gate open, so that everything that is off else is looked at.
func open() trial {
	return trial{
		"image.tag": "v9", "image.pullSecrets": []any{map[string]any{"name": "pull"}},
		"nats.exporter": "exporter:1", "nats.replicas": 3, "nats.tls.hosts": []any{"nats.example.com"}, "nats.service.annotations": map[string]any{"a": "b"},
		"nats.storage.className": "fast", "operator.replicas": 2, "trust.configMap": "authorities",
		"callout.config.oidc.issuer": "https://sso.example.com", "callout.config.oidc.rolesClaim": "roles", "callout.config.oidc.caFile": "/ca",
		"callout.config.openbao.caFile": "/ca", "operator.config.openbao.caFile": "/ca",
		"monitoring.prometheus": true, "monitoring.dashboard": true,
		"scheduling.nodeSelector": map[string]any{"a": "b"}, "scheduling.tolerations": []any{map[string]any{"operator": "Exists"}},
	}
}

// bases are what values are changed on top of: nothing, and all gates open, in each
// way in which some are open and others must be shut.
func bases() []trial {
	digest := "sha256:" + strings.Repeat("0a", 32)
	return []trial{
		{},
		open(),
		open().with(trial{
			"nats.tls.source": "certManager", "nats.tls.issuer.name": "ca", "nats.tls.secret": "own-tls", "keys.existingSecret": "mine",
			"image.digests.operator": digest, "image.digests.callout": digest, "image.tag": "",
		}),
		open().with(trial{"nats.url": "tls://nats.example.com:4222", "nats.tls.secret": "other-tls", "image.tag": ""}),
	}
}

// gates are the values on which more than one place depends, and what they may be.
func gates() map[string][]any {
	digest := "sha256:" + strings.Repeat("0a", 32)
	return map[string][]any{
		"image.tag": {"", "v2"}, "image.digests.operator": {"", digest}, "image.digests.callout": {"", digest},
		"keys.existingSecret": {"", "mine"}, "nats.url": {"", "tls://nats.example.com:4222"},
		"nats.exporter": {"", "exporter:2"}, "nats.replicas": {1, 3}, "nats.tls.source": {"generated", "certManager", "existing"}, "nats.tls.secret": {"", "own-tls"},
		"nats.tls.hosts": {[]any{}, []any{"a.example.com", "b.example.com"}}, "nats.storage.className": {nil, "", "fast"},
		"nack.enabled": {true, false}, "operator.replicas": {1, 2}, "callout.enabled": {true, false}, "callout.replicas": {1, 2},
		"trust.configMap": {"", "ca"}, "podSecurity.runAsUser": {nil, 0, 7}, "networkPolicy.enabled": {true, false},
		"monitoring.prometheus": {true, false}, "monitoring.dashboard": {true, false},
	}
}
