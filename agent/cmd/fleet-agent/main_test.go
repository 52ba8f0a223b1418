package main_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/podman"
	"github.com/nationtech/harmony-fleet/smoke/programs"
)

// binary is the command under test, built once, and calloutBinary what decides
// which devices join.
var binary, calloutBinary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fleet-agent-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary, calloutBinary = filepath.Join(dir, "fleet-agent"), filepath.Join(dir, "fleet-callout")
	if err := programs.Build(context.Background(), dir, "v1.2.3", programs.Agent, programs.Callout); err != nil {
		panic(err)
	}
	return m.Run()
}

// fleetAgent runs the command to its end.
func fleetAgent(t *testing.T, environment []string, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), environment...)
	output, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(output), cmd.ProcessState.ExitCode()
}

// settings of one agent's configuration file.
type settings struct{ dir, url, password, socket string }

func (s settings) write(t *testing.T) string {
	t.Helper()
	path := filepath.Join(s.dir, "config.toml")
	content := fmt.Sprintf(`[agent]
device_id = "pi-4"
trusted_keys = ["OCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVYOCS"]
state_dir = %q
[nats]
urls = [%q]
[podman]
socket = %q
[credentials]
type = "password"
user = "pi-4"
password = %q
`, filepath.Join(s.dir, "state"), s.url, s.socket, s.password)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func expect(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("the output lacks %q:\n%s", word, out)
		}
	}
}

func TestCommandLine(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(broken, []byte("[agent]\ndevise_id = \"pi-4\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		reason string
		args   []string
		env    []string
		code   int
		want   []string
	}{
		"Version":       {"what was linked in", []string{"version"}, nil, 0, []string{"v1.2.3"}},
		"Help":          {"all commands are named", []string{"--help"}, nil, 0, []string{"run ", "check ", "status ", "logs ", "hold ", "version "}},
		"Unknown":       {"a misspelt command", []string{"stauts"}, nil, 2, []string{`unknown command "stauts"`, "Usage:"}},
		"Superfluous":   {"an argument too many", []string{"status", "now"}, nil, 2, []string{`unexpected argument "now"`}},
		"UnknownFlag":   {"a misspelt flag", []string{"run", "--confg=x"}, nil, 2, []string{"-confg"}},
		"OddHold":       {"a hold says how long", []string{"hold", "tomorrow"}, nil, 2, []string{`hold "tomorrow": want a duration such as 90m or 2h, or "off"`}},
		"NoHold":        {"a hold needs a length", []string{"hold"}, nil, 2, []string{`hold "": want a duration`}},
		"LongHold":      {"a typing error holds nobody for years", []string{"hold", "2000h"}, nil, 2, []string{"at most 720h"}},
		"OddLogs":       {"a Deployment has a namespace", []string{"logs", "web"}, nil, 2, []string{"want NAMESPACE/DEPLOYMENT"}},
		"OddTail":       {"a flag of another command", []string{"status", "--tail=3"}, nil, 2, []string{"--tail is for logs alone"}},
		"BrokenConfig":  {"a mistake is located, by the default command too", []string{"--config", broken}, nil, 1, []string{`config.toml:2:1: unknown key "agent.devise_id"`}},
		"Environment":   {"the environment names the file", []string{"check"}, []string{"FLEET_AGENT_CONFIG=" + broken}, 1, []string{"FAIL  configuration", `config.toml:2:1: unknown key "agent.devise_id"`}},
		"MissingConfig": {"a file that is not there", []string{"status", "--config", "/nonexistent/config.toml"}, nil, 1, []string{"/nonexistent/config.toml: no such file"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			out, code := fleetAgent(t, tc.env, tc.args...)
			if code != tc.code {
				t.Errorf("%s\nexit code %d, want %d:\n%s", tc.reason, code, tc.code, out)
			}
			expect(t, out, tc.want...)
		})
	}
}

func TestCheck(t *testing.T) {
	b, err := broker.Start(t.Context(), broker.Options{Devices: []wire.DeviceID{"pi-4"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	if err := podman.EnsureInstalled(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	service, err := podman.Start(t.Context(), podman.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Stop(); err != nil {
			t.Error(err)
		}
	})
	right := settings{url: b.URL(), password: b.Device("pi-4").Password, socket: service.Socket()}
	cases := map[string]struct {
		reason string
		change func(*settings)
		code   int
		want   []string
	}{
		"Right": {
			reason: "all is well, and a connection without TLS is said loudly",
			change: func(*settings) {}, code: 0,
			want: []string{"ok    configuration", "device pi-4", "ok    podman", "podman ", "ok    broker", "WITHOUT TLS", "no desired state for this device yet"},
		},
		"Password": {
			reason: "the login is refused",
			change: func(s *settings) { s.password = "wrong" }, code: 1,
			want: []string{"ok    podman", "FAIL  broker", `refused the login of user "pi-4": wrong user or password; check [credentials]`},
		},
		"NobodyListens": {
			reason: "there is no broker",
			change: func(s *settings) { s.url = "nats://127.0.0.1:1" }, code: 1,
			want: []string{"FAIL  broker", "nothing listens at nats://127.0.0.1:1"},
		},
		"NoPodman": {
			reason: "the socket is missing",
			change: func(s *settings) { s.socket = "unix:///nonexistent/podman.sock" }, code: 1,
			want: []string{"FAIL  podman", "/nonexistent/podman.sock is not there", "enable --now podman.socket", "ok    broker"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := right
			s.dir = t.TempDir()
			tc.change(&s)
			out, code := fleetAgent(t, nil, "check", "--config", s.write(t))
			if code != tc.code {
				t.Errorf("%s\nexit code %d, want %d:\n%s", tc.reason, code, tc.code, out)
			}
			expect(t, out, tc.want...)
		})
	}
}

// supervisor is systemd's end of the socket over which the agent tells how it does.
func supervisor(t *testing.T) (environment []string, hears func(state string)) {
	t.Helper()
	address := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return []string{"NOTIFY_SOCKET=" + address, "WATCHDOG_USEC=500000"}, func(state string) {
		t.Helper()
		if err := socket.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for said := make([]byte, 4096); ; {
			n, err := socket.Read(said)
			if err != nil {
				t.Fatalf("waiting for %q: %v", state, err)
			}
			if strings.HasPrefix(string(said[:n]), state) {
				return
			}
		}
	}
}

// TestLife runs the agent with neither a broker nor podman: it must work on, say
// so, keep a second one out, and end when asked to.
func TestLife(t *testing.T) {
	path := settings{dir: t.TempDir(), url: "nats://127.0.0.1:1", password: "x", socket: "unix:///nonexistent/podman.sock"}.write(t)
	status := func() string {
		t.Helper()
		out, code := fleetAgent(t, nil, "status", "--config", path)
		if code != 0 {
			t.Fatalf("status exits with %d:\n%s", code, out)
		}
		return out
	}
	expect(t, status(), "has never run here")

	var log bytes.Buffer
	agent := exec.Command(binary, "--config", path)
	agent.Stderr = &log
	environment, hears := supervisor(t)
	agent.Env = append(os.Environ(), environment...)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	t.Cleanup(func() { _ = agent.Process.Kill() })
	hears("READY=1")
	hears("STATUS=device pi-4, not connected: nothing listens at nats://127.0.0.1:1")
	for range 3 {
		hears("WATCHDOG=1")
	}
	out := ""
	for end := time.Now().Add(20 * time.Second); !strings.Contains(out, "nothing listens at"); time.Sleep(100 * time.Millisecond) {
		if out = status(); time.Now().After(end) {
			t.Fatalf("the lost broker does not show:\n%s", out)
		}
	}
	expect(t, out, "agent   running", "not connected since", "containers are not known", "nothing received from the broker yet")

	if out, code := fleetAgent(t, nil, "hold", "2h", "--config", path); code != 0 || !strings.Contains(out, "held until") {
		t.Errorf("hold exits with %d:\n%s", code, out)
	}
	for end := time.Now().Add(20 * time.Second); !strings.Contains(out, "HELD    until"); hears("WATCHDOG=1") {
		if out = status(); time.Now().After(end) {
			t.Fatalf("the hold does not show:\n%s", out)
		}
	}
	if out, code := fleetAgent(t, nil, "hold", "--config", path, "off"); code != 0 || out != "the hold is over\n" {
		t.Errorf("hold off exits with %d:\n%s", code, out)
	}
	for end := time.Now().Add(20 * time.Second); strings.Contains(out, "HELD"); hears("WATCHDOG=1") {
		if out = status(); time.Now().After(end) {
			t.Fatalf("the end of the hold does not show:\n%s", out)
		}
	}

	second, code := fleetAgent(t, nil, "run", "--config", path)
	if code != 1 {
		t.Errorf("a second agent exits with %d", code)
	}
	expect(t, second, "another agent uses this state directory")

	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hears("STOPPING=1")
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the agent does not end within 10 s of SIGTERM")
	}
	expect(t, log.String(), `msg="agent started"`, "version=v1.2.3", "broker is not reachable")
	expect(t, status(), "NOT RUNNING; below is what it said last")
}
