package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/operator/program"
)

func TestReadConfig(t *testing.T) {
	const good = "nats: {urls: [nats://127.0.0.1:4222]}\ncredentials: {type: password, user: operator, password: secret}\nsigning: {keyFiles: [/etc/seed]}\n"
	cases := map[string]struct {
		reason, content, want string // want is in the error
	}{
		"good":              {"the cases differ from this one", good, ""},
		"unknown key":       {"a typo must not be silent", good + "loglevel: debug\nlogLevl: debug\n", `unknown field "logLevl"`},
		"key twice":         {"one of them would be ignored", good + "logLevel: info\nlogLevel: debug\n", "already set"},
		"wrong type":        {"", good + "status: {patchesPerSecond: many}\n", "patchesPerSecond"},
		"bad duration":      {"", good + "deleteTimeout: 5\n", "duration"},
		"no broker":         {"", "credentials: {type: password, user: operator, password: secret}\n", "nats:"},
		"unknown log level": {"", good + "logLevel: loud\n", "logLevel:"},
		"no budget":         {"", good + "status: {patchesPerSecond: 0}\n", "status.patchesPerSecond"},
		"not YAML":          {"", "nats: [", "yaml"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := program.ReadConfig(file, config.OperatorDefaults())
			switch {
			case c.want == "" && err != nil:
				t.Errorf("it is refused: %v", err)
			case c.want == "" && got.DeleteTimeout != config.Duration(time.Minute):
				t.Errorf("deleteTimeout is %v, want the default", got.DeleteTimeout)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file)):
				t.Errorf("got error %v, want one with the file's name and %q", err, c.want)
			}
		})
	}
}

func TestCommand(t *testing.T) {
	cases := map[string]struct {
		args       []string
		want       string // in the output
		wantsError string // in the error
	}{
		"help":             {[]string{"--help"}, "patchesPerSecond: 200", ""},
		"help of probes":   {[]string{"--help"}, "/readyz", ""},
		"version":          {[]string{"--version"}, "fleet-operator version", ""},
		"unknown flag":     {[]string{"--confg", "x"}, "", "unknown flag: --confg"},
		"no configuration": {[]string{"--config", "/does/not/exist"}, "", "/does/not/exist"},
		"an argument":      {[]string{"run"}, "", `unknown command "run"`},
		"help of keys":     {[]string{"keys", "--help"}, "signing.seed", ""},
		"no host":          {[]string{"keys", "--namespace", "x", "--tls-secret", "x"}, "", "--host"},
		"no namespace":     {[]string{"keys", "--namespace", ""}, "", "POD_NAMESPACE"},
		"no cluster":       {[]string{"keys", "--namespace", "x", "--kubeconfig", "/does/not/exist"}, "", "/does/not/exist"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			cmd := command()
			cmd.SetArgs(c.args)
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			err := cmd.ExecuteContext(t.Context())
			if c.wantsError == "" && err != nil || c.wantsError != "" && (err == nil || !strings.Contains(err.Error(), c.wantsError)) {
				t.Errorf("got error %v, want %q in it", err, c.wantsError)
			}
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("the output lacks %q:\n%s", c.want, out.String())
			}
		})
	}
}

// TestExampleIsComplete: what --help shows is a configuration that works.
func TestExampleIsComplete(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(program.Example(example())), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := program.ReadConfig(file, config.OperatorDefaults()); err != nil {
		t.Error(err)
	}
}
