package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pelletier/go-toml/v2"

	"github.com/nationtech/harmony-fleet/agent/config"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

const valid = `[agent]
device_id = "pi-4"
trusted_keys = ["OCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVYOCS"]
[nats]
urls = ["tls://a.example.com:4222", "tls://b.example.com:4222"]
[labels]
site = "berlin"
role = "kiosk"
[credentials]
type = "password"
user = "pi-4"
password = "secret"
`

// write puts files, by their path below a new directory, on disk and returns
// the path of config.toml there.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.toml")
}

func TestLoad(t *testing.T) {
	base := v1alpha1.AgentConfig{
		Agent: v1alpha1.AgentSection{DeviceID: "pi-4", TrustedKeys: []string{"OCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVYOCS"},
			StateDir: "/var/lib/fleet-agent", LogLevel: "info"},
		NATS:   v1alpha1.NATSSection{URLs: []string{"tls://a.example.com:4222", "tls://b.example.com:4222"}},
		Labels: map[string]string{"site": "berlin", "role": "kiosk"},
		Podman: v1alpha1.PodmanSection{
			PollInterval: v1alpha1.Duration(5 * time.Second), MinFreeSpace: 1 << 30, ImageRetention: v1alpha1.Duration(168 * time.Hour),
		},
		Credentials: v1alpha1.Credentials{
			Type: v1alpha1.CredentialPassword, User: "pi-4", Password: "secret",
		},
		OpenBao: v1alpha1.SecretsSection{
			Mount: "fleet", LoginMount: "jwt", LoginRole: "fleet-device", RefreshInterval: v1alpha1.Duration(5 * time.Minute),
		},
	}
	overlaid := base
	overlaid.Agent.LogLevel = "debug"
	overlaid.NATS.URLs = []string{"nats://c.example.com:4222"}
	overlaid.Labels = map[string]string{"site": "paris", "role": "kiosk", "floor": "2"}
	overlaid.Podman.PollInterval = v1alpha1.Duration(9 * time.Second)
	overlaid.OpenBao.Address, overlaid.OpenBao.RefreshInterval = "https://openbao.example.com", v1alpha1.Duration(time.Minute)

	cases := map[string]struct {
		reason string
		files  map[string]string
		want   v1alpha1.AgentConfig
	}{
		"Defaults": {
			reason: "where the file is silent the defaults hold",
			files:  map[string]string{"config.toml": valid},
			want:   base,
		},
		"DropIns": {
			reason: "later names win, labels are merged, lists are replaced, and other files are not read",
			files: map[string]string{
				"config.toml":         valid,
				"conf.d/10-site.toml": "[labels]\nsite = \"rome\"\nfloor = \"2\"\n[nats]\nurls = [\"nats://c.example.com:4222\"]\n[podman]\npoll_interval = \"9s\"\n",
				"conf.d/20-site.toml": "[labels]\nsite = \"paris\"\n[agent]\nlog_level = \"debug\"\n[openbao]\naddress = \"https://openbao.example.com\"\nrefresh_interval = \"1m\"\n",
				"conf.d/README":       "not TOML",
			},
			want: overlaid,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := config.Load(write(t, tc.files))
			if err != nil {
				t.Fatalf("%s\nLoad(): %v", tc.reason, err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\nLoad(): -want +got\n%s", tc.reason, diff)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	cases := map[string]struct {
		reason string
		files  map[string]string
		want   []string
	}{
		"Missing": {
			reason: "a missing file is named",
			want:   []string{"reading the configuration", "config.toml", "no such file"},
		},
		"UnknownKey": {
			reason: "a misspelt key is named with its place, and what was meant",
			files:  map[string]string{"config.toml": strings.Replace(valid, "urls", "url", 1)},
			want:   []string{`config.toml:5:1: unknown key "nats.url": did you mean urls?`},
		},
		"UnknownSection": {
			reason: "so is a section",
			files:  map[string]string{"config.toml": "\n  [agnet]\nx = 1\n"},
			want:   []string{`config.toml:2:4: unknown key "agnet": did you mean [agent]?`},
		},
		"KeyElsewhere": {
			reason: "a key that another section has",
			files:  map[string]string{"config.toml": "[agent]\nca_file = \"/ca.pem\"\n"},
			want:   []string{`config.toml:2:1: unknown key "agent.ca_file": ca_file belongs into [credentials] or [nats] or [openbao]`},
		},
		"KeyOfNoSection": {
			reason: "a key before the first section",
			files:  map[string]string{"config.toml": "device_id = \"pi-4\"\n"},
			want:   []string{`config.toml:1:1: unknown key "device_id": device_id belongs into [agent]`},
		},
		"NothingNear": {
			reason: "what is like no key has those named that there are",
			files:  map[string]string{"config.toml": "[podman]\nconcurrency = 3\n[kubernetes]\ntoken = 1\n"},
			want: []string{
				`config.toml:2:1: unknown key "podman.concurrency": [podman] has socket, poll_interval`,
				`unknown key "kubernetes": the sections are [agent], [credentials], [labels], [nats], [openbao], [podman]`,
			},
		},
		"UnknownKeysInTwoFiles": {
			reason: "all unknown keys are reported at once, also those of conf.d",
			files: map[string]string{
				"config.toml":     valid + "colour = \"red\"\n",
				"conf.d/one.toml": "\n  [agnet]\nx = 1\n",
			},
			want: []string{`config.toml:13:1: unknown key "credentials.colour"`, `one.toml:2:`, `unknown key "agnet`},
		},
		"WrongType": {
			reason: "a list is wanted and a string found",
			files:  map[string]string{"config.toml": "[nats]\nurls = \"tls://a:1,tls://b:2\"\n"},
			want:   []string{`config.toml:2:8: nats.urls: found string, want a list of texts, such as ["a", "b"]`},
		},
		"WrongLabel": {
			reason: "a number is no label",
			files:  map[string]string{"config.toml": "[labels]\nfloor = 2\n"},
			want:   []string{`config.toml:2:9: labels.floor: found integer, want a text in quotes, such as "a"`},
		},
		"NumberForDuration": {
			reason: "nobody means nanoseconds",
			files:  map[string]string{"config.toml": valid + "[podman]\npoll_interval = 5\n"},
			want:   []string{`config.toml:14:17: podman.poll_interval: found integer, want a number with a unit in quotes, such as "30s"`},
		},
		"WrongDuration": {
			reason: "nor is a switch a duration",
			files:  map[string]string{"config.toml": "openbao.refresh_interval = true\n"},
			want:   []string{`config.toml:1:28: openbao.refresh_interval: found boolean, want a number with a unit in quotes, such as "30s"`},
		},
		"WrongSection": {
			reason: "a section is no value",
			files:  map[string]string{"config.toml": "nats = \"tls://a:1\"\n"},
			want:   []string{`config.toml:1:8: nats: found string, want a section of its own`},
		},
		"LabelsInOne": {
			reason: "labels are a section",
			files:  map[string]string{"config.toml": "labels = \"site=berlin\"\n"},
			want:   []string{`config.toml:1:10: labels: found string, want a section of its own, with a line such as site = "berlin" for each label`},
		},
		"Syntax": {
			reason: "what is not TOML is located too",
			files:  map[string]string{"config.toml": "[agent]\ndevice_id = pi-4\n"},
			want:   []string{"config.toml:2:13: ", "a text has to be in quotes"},
		},
		"UTF-8": {
			reason: "labels travel as JSON, which has no other text",
			files:  map[string]string{"config.toml": "[labels]\nsite = \"\xff\"\n"},
			want:   []string{"config.toml:2:", "invalid UTF-8"},
		},
		"Duration": {
			reason: "a number without a unit",
			files:  map[string]string{"config.toml": "[podman]\npoll_interval = \"5\"\n"},
			want:   []string{"config.toml:2:17: ", "want a number with a unit"},
		},
		"Values": {
			reason: "all values that are not allowed are named with their section",
			files:  map[string]string{"config.toml": strings.NewReplacer(`"pi-4"`, `"pi.4"`, "tls://a", "http://a").Replace(valid)},
			want:   []string{"config.toml: ", "[agent] device_id", "[nats] urls"},
		},
		"DeviceIDLabel": {
			reason: "the operator's own label cannot be claimed",
			files:  map[string]string{"config.toml": strings.Replace(valid, "site", "device-id", 1)},
			want:   []string{"[labels] device-id: is set from"},
		},
		"Label": {
			reason: "a label that Kubernetes would not take is named, with what it would",
			files:  map[string]string{"config.toml": strings.Replace(valid, "berlin", "Berlin (Mitte)", 1)},
			want:   []string{`[labels] "site": the value "Berlin (Mitte)": want letters`, `; write "Berlin--Mitte"`},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(write(t, tc.files))
			if err == nil {
				t.Fatalf("%s\nLoad(): no error", tc.reason)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s\nLoad(): %q lacks %q", tc.reason, err, want)
				}
			}
		})
	}
}

func TestPath(t *testing.T) {
	t.Setenv(config.Environment, "")
	if got := config.Path(); got != config.DefaultPath {
		t.Errorf("Path() without the variable = %q", got)
	}
	t.Setenv(config.Environment, "/tmp/agent.toml")
	if got := config.Path(); got != "/tmp/agent.toml" {
		t.Errorf("Path() = %q, want the variable's value", got)
	}
}

// TestDefault: the file that a new device has says nothing, and has each field with the
// value that it has anyway or a valid example.
func TestDefault(t *testing.T) {
	var untouched v1alpha1.AgentConfig
	if err := toml.Unmarshal(config.Default, &untouched); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v1alpha1.AgentConfig{}, untouched, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the file says something:\n%s", diff)
	}
	// Each type of credentials is an example of its own.
	text := regexp.MustCompile(`(?m)^#(\w+ = )`).ReplaceAllString(string(config.Default), "$1")
	before, credentials, _ := strings.Cut(text, "[credentials]\n")
	credentials, after, _ := strings.Cut(credentials, "[openbao]\n")
	fields := map[string]bool{}
	for _, example := range strings.Split(credentials, "\n\n") {
		if strings.TrimSpace(example) == "" {
			continue
		}
		var cfg map[string]map[string]any
		whole := before + "[credentials]\n" + example + "\n[openbao]\n" + after
		if err := toml.NewDecoder(strings.NewReader(whole)).DisallowUnknownFields().Decode(new(v1alpha1.AgentConfig)); err != nil {
			t.Errorf("%v in\n%s", err, whole)
		}
		if err := toml.Unmarshal([]byte(whole), &cfg); err != nil {
			t.Fatal(err)
		}
		for section, values := range cfg {
			for key := range values {
				fields[section+"."+key] = true
			}
		}
	}
	for section := range reflect.TypeFor[v1alpha1.AgentConfig]().Fields() {
		if section.Type.Kind() != reflect.Struct {
			continue // the labels
		}
		for field := range section.Type.Fields() {
			if name := section.Tag.Get("toml") + "." + field.Tag.Get("toml"); !fields[name] {
				t.Errorf("the file lacks %s", name)
			}
		}
	}
	var shown v1alpha1.AgentConfig
	if err := toml.Unmarshal([]byte(before+"[openbao]\n"+after), &shown); err != nil {
		t.Fatal(err)
	}
	want := v1alpha1.AgentDefaults()
	shown.Agent.DeviceID, shown.Agent.TrustedKeys, shown.NATS, shown.Labels = "", nil, v1alpha1.NATSSection{}, nil
	shown.Podman.Socket, shown.OpenBao.Address, shown.OpenBao.CAFile = "", "", ""
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("the file shows other defaults: -want +shown\n%s", diff)
	}
}
