package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/process"
	"github.com/nationtech/harmony-fleet/smoke/programs"
)

// install builds fleet-agent and writes its configuration file, for a process
// that can be killed.
func (d *device) install() process.Spec {
	d.Helper()
	dir := d.TempDir()
	spec := process.Spec{Path: filepath.Join(dir, "fleet-agent"), Log: filepath.Join(dir, "log")}
	if err := programs.Build(d.Context(), dir, "", programs.Agent); err != nil {
		d.Fatal(err)
	}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("[agent]\ndevice_id = %q\ntrusted_keys = [%q]\nstate_dir = %q\n[nats]\nurls = [%q]\n[podman]\nsocket = %q\npoll_interval = \"1s\"\n[credentials]\ntype = \"password\"\nuser = %q\npassword = %q\n",
		d.cfg.Agent.DeviceID, d.cfg.Agent.TrustedKeys[0], d.cfg.Agent.StateDir, d.cfg.NATS.URLs[0], d.cfg.Podman.Socket, d.cfg.Credentials.User, d.cfg.Credentials.Password)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		d.Fatal(err)
	}
	spec.Args = []string{"run", "--config", config}
	d.Cleanup(func() {
		if log, err := os.ReadFile(spec.Log); err == nil && d.Failed() {
			d.Logf("fleet-agent's log:\n%s", log)
		}
	})
	return spec
}

// TestKilledDuringAnApply kills the agent with SIGKILL at ever later moments of an
// upgrade: the next one always ends with the new version, and that alone.
func TestKilledDuringAnApply(t *testing.T) {
	d := newDevice(t)
	spec := d.install()
	start := func() *process.Process {
		t.Helper()
		p, err := process.Start(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Stop(0) })
		return p
	}
	running := start()
	d.eventually("it runs", d.reported(wire.PhaseSucceeded, d.want(1, "v1")))
	versions := []string{"v2", "v1"}
	for round := range 6 {
		version := versions[round%2]
		digest := d.want(uint64(round+2), version)
		time.Sleep(time.Duration(round) * 250 * time.Millisecond)
		running.Stop(0)
		running = start()
		d.eventually(version+" is reported", d.reported(wire.PhaseSucceeded, digest))
		d.eventually(version+" answers", d.answers(version))
		d.eventually("one container is left", func() bool { return len(strings.Fields(d.containers())) == 1 })
	}
}
