package packages_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/smoke/shop"
)

const apt = "apt-get --quiet --yes "

// TestApt takes the package through a life as apt has it.
func TestApt(t *testing.T) {
	s := open(t)
	d := newDevice(t)
	must(t, exec.Command("cp", s.find(t, "harmony-fleet-archive-keyring", ".deb"), d.root.Path("tmp/keyring.deb")).Run())
	d.does(apt + "install /tmp/keyring.deb && " + apt + "update -o Dir::Etc::sourcelist=/dev/null")
	d.does(apt + "install --no-install-recommends fleet-agent=0.0.9~rc.1-1")
	d.has(true, "usr/bin/fleet-agent", "usr/lib/systemd/system/fleet-agent.service", "etc/fleet-agent/conf.d", "var/lib/fleet-agent", "usr/share/man/man8/fleet-agent.8.gz")
	d.has(false, "etc/systemd/system/multi-user.target.wants/fleet-agent.service")
	if out := d.does("fleet-agent version; getent passwd fleet-agent"); !strings.Contains(out, "v0.0.9-rc.1\n") || !strings.Contains(out, "/var/lib/fleet-agent-rootless") {
		t.Errorf("it says %s", out)
	}
	d.fails("fleet-agent check", "[agent] device_id")

	edit := "[labels]\nsite = \"berlin\"\n"
	must(t, d.root.Write("etc/fleet-agent/config.toml", edit))
	must(t, d.root.Write("var/lib/fleet-agent/state", "x"))
	for _, step := range []struct{ command, version string }{
		{apt + "install fleet-agent", "v0.0.9\n"}, // the release comes after its candidate
		{apt + "install --allow-downgrades fleet-agent=0.0.9~rc.1-1", "v0.0.9-rc.1\n"},
		{apt + "remove fleet-agent", ""},
		{apt + "install fleet-agent", "v0.0.9\n"},
	} {
		d.does(step.command)
		if got, err := os.ReadFile(d.root.Path("etc/fleet-agent/config.toml")); err != nil || string(got) != edit {
			t.Errorf("after %s: %v: what its owner wrote is %q", step.command, err, got)
		}
		d.has(true, "var/lib/fleet-agent/state")
		d.has(step.version != "", "usr/bin/fleet-agent")
		if step.version != "" {
			if out := d.does("fleet-agent version"); out != step.version {
				t.Errorf("after %s it is %s", step.command, out)
			}
		}
	}
	if out := d.does(apt + "purge fleet-agent"); !strings.Contains(out, "podman rm --force") || !strings.Contains(out, "label="+podman.LabelManaged) {
		t.Errorf("purging does not say that containers are left: %s", out)
	}
	d.has(false, "etc/fleet-agent", "var/lib/fleet-agent", "var/lib/fleet-agent-rootless", "usr/bin/fleet-agent", "usr/lib/systemd/system/fleet-agent.service")
	d.has(true, "usr/bin/podman")
}

// TestAptTrust: what another key signed, and what was changed since, is refused.
func TestAptTrust(t *testing.T) {
	s := open(t)
	d := newDevice(t)
	must(t, d.root.Write("usr/share/keyrings/harmony-fleet.gpg", string(s.Trust.Binary)))
	sources, _, err := s.Trust.Sources()
	must(t, err)
	must(t, d.root.Write("etc/apt/sources.list.d/harmony-fleet.sources", string(sources)))
	update := apt + "update -o Dir::Etc::sourcelist=/dev/null -o APT::Update::Error-Mode=any"
	d.does(update)

	thief, err := shop.NewKey(t.TempDir())
	must(t, err)
	must(t, s.Publish(t.Context(), thief, filepath.Join(s.Repository(), "foreign")))
	must(t, d.root.Write("etc/apt/sources.list.d/harmony-fleet.sources", strings.Replace(string(sources), "/deb", "/foreign/deb", 1)))
	d.fails(update, "NO_PUBKEY")

	changed := filepath.Join(s.Repository(), "changed")
	must(t, exec.Command("cp", "--archive", filepath.Join(s.Repository(), "deb"), changed).Run())
	must(t, d.root.Write("etc/apt/sources.list.d/harmony-fleet.sources", strings.Replace(string(sources), "/deb", "/changed", 1)))
	d.does(update)
	list, err := filepath.Glob(changed + "/pool/main/fleet-agent_0.0.9-1_amd64.deb")
	must(t, err)
	for _, file := range list {
		content, err := os.ReadFile(file)
		must(t, err)
		content[len(content)/2] ^= 1
		must(t, os.WriteFile(file, content, 0o600))
	}
	d.fails(apt+"install fleet-agent", "Hash Sum mismatch")
	d.has(false, "usr/bin/fleet-agent")
}

// TestDebForeign: a package for another architecture is refused, as docs/device.md quotes
// it, and with it installed on purpose the program runs under emulation.
func TestDebForeign(t *testing.T) {
	s := open(t)
	d := newDevice(t)
	must(t, exec.Command("cp", s.find(t, "fleet-agent_0.0.9-1", "arm64.deb"), d.root.Path("tmp/arm64.deb")).Run())
	must(t, exec.Command("cp", "/usr/bin/qemu-aarch64-static", d.root.Path("usr/bin")).Run())
	d.fails("dpkg --install /tmp/arm64.deb", "package architecture (arm64) does not match system (amd64)")
	d.fails(apt+"install /tmp/arm64.deb", "fleet-agent:arm64 : Depends: podman:arm64 (>= 4.3) but it is not installable")
	d.has(false, "usr/bin/fleet-agent")
	d.does("dpkg --add-architecture arm64 && dpkg --force-depends --install /tmp/arm64.deb")
	if out := d.does("qemu-aarch64-static /usr/bin/fleet-agent version"); out != "v0.0.9\n" {
		t.Errorf("it says %s", out)
	}
}

// TestLint: the tools that distributions check packages with find nothing that is not
// meant so.
func TestLint(t *testing.T) {
	s := open(t)
	var debs, rpms []string
	for _, p := range s.Packages {
		if p.Format == "deb" {
			debs = append(debs, p.Path)
		} else {
			rpms = append(rpms, p.Path)
		}
	}
	if out, err := exec.Command("lintian", append([]string{"--fail-on=error,warning", "--allow-root"}, debs...)...).CombinedOutput(); err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	must(t, err)
	config := filepath.Join(strings.TrimSpace(string(root)), "release/packages/rpmlint.toml")
	out, err := exec.Command("rpmlint", append([]string{"--config", config}, rpms...)...).CombinedOutput()
	if text := string(out); err != nil || strings.Contains(text, ": W: ") || !strings.Contains(text, "0 errors") {
		t.Errorf("rpmlint: %v\n%s", err, out)
	}
}
