package packages_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nationtech/harmony-fleet/agent/podman"
	"github.com/nationtech/harmony-fleet/release/packages"
	"github.com/nationtech/harmony-fleet/smoke/shop"
)

// dnf installs into a device from outside, as is done for images. The device is a Debian
// whose database of RPMs has one package, see shop.Present.
type dnf struct {
	device
	repo string
}

func newDnf(t *testing.T, s shelf) dnf {
	t.Helper()
	d := dnf{newDevice(t), t.TempDir()}
	file, err := os.Create(filepath.Join(t.TempDir(), "present.rpm"))
	must(t, err)
	must(t, shop.Present(file))
	must(t, file.Close())
	must(t, os.MkdirAll(d.root.Path("etc/pki/rpm-gpg"), 0o755))
	d.rpm("--install", "--nosignature", file.Name())
	return d
}

// rpm works on the device's database.
func (d dnf) rpm(args ...string) string {
	d.Helper()
	out, err := exec.CommandContext(d.Context(), "rpm", append([]string{"--root", string(d.root)}, args...)...).CombinedOutput()
	if err != nil {
		d.Fatalf("rpm %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// run is dnf with the repository that the file describes.
func (d dnf) run(file string, args ...string) (string, error) {
	d.Helper()
	must(d.T, os.WriteFile(filepath.Join(d.repo, "harmony-fleet.repo"), []byte(file), 0o600))
	all := append([]string{
		"--installroot=" + string(d.root), "--setopt=reposdir=" + d.repo, "--setopt=cachedir=" + d.repo + "/cache", "--setopt=logdir=" + d.repo,
		"--releasever=41", "--assumeyes", "--refresh",
	}, args...)
	// Scripts of packages want /proc, as whoever builds an image gives it to them.
	const script = `mount -t proc proc "$0/proc" && exec dnf "$@"`
	out, err := exec.CommandContext(d.Context(), "unshare", append([]string{"--mount", "sh", "-c", script, string(d.root)}, all...)...).CombinedOutput()
	return string(out), err
}

// file describes the repository, with the key where the host finds it.
func (d dnf) file(trust packages.Trust) string {
	d.Helper()
	key := filepath.Join(d.repo, "key.asc")
	must(d.T, os.WriteFile(key, trust.Armored, 0o600))
	_, text, err := trust.Sources()
	must(d.T, err)
	return strings.Replace(string(text), "file:///etc/pki/rpm-gpg/RPM-GPG-KEY-harmony-fleet", "file://"+key, 1)
}

// TestDnf takes the package through a life as dnf has it, for both architectures.
func TestDnf(t *testing.T) {
	for _, arch := range []string{"x86_64", "aarch64"} {
		t.Run(arch, func(t *testing.T) {
			s := open(t)
			d := newDnf(t, s)
			file := d.file(s.Trust)
			does := func(args ...string) string {
				t.Helper()
				out, err := d.run(file, append(args, "--forcearch="+arch)...)
				if err != nil {
					t.Fatalf("dnf %v: %v\n%s", args, err, out)
				}
				return out
			}
			program := "fleet-agent"
			if arch == "aarch64" {
				must(t, exec.Command("cp", "/usr/bin/qemu-aarch64-static", d.root.Path("usr/bin")).Run())
				program = "qemu-aarch64-static /usr/bin/fleet-agent"
			}
			does("install", "fleet-agent-0.0.9~rc.1")
			d.has(true, "usr/bin/fleet-agent", "usr/lib/systemd/system/fleet-agent.service", "etc/fleet-agent/conf.d", "var/lib/fleet-agent")
			edit := "[labels]\nsite = \"berlin\"\n"
			must(t, d.root.Write("etc/fleet-agent/config.toml", edit))
			must(t, d.root.Write("var/lib/fleet-agent/state", "x"))
			for _, step := range []struct{ action, version string }{
				{"upgrade", "v0.0.9\n"}, {"downgrade", "v0.0.9-rc.1\n"}, {"upgrade", "v0.0.9\n"},
			} {
				does(step.action, "fleet-agent")
				if out := d.does(program + " version"); out != step.version {
					t.Errorf("after %s it is %s", step.action, out)
				}
				if got, err := os.ReadFile(d.root.Path("etc/fleet-agent/config.toml")); err != nil || string(got) != edit {
					t.Errorf("after %s: %v: what its owner wrote is %q", step.action, err, got)
				}
			}
			if out := does("remove", "fleet-agent"); !strings.Contains(out, "podman rm --force") || !strings.Contains(out, "label="+podman.LabelManaged) {
				t.Errorf("removing does not say that containers are left: %s", out)
			}
			d.has(false, "usr/bin/fleet-agent", "usr/lib/systemd/system/fleet-agent.service")
			d.has(true, "var/lib/fleet-agent/state", "etc/fleet-agent/config.toml.rpmsave")
		})
	}
}

// TestDnfForeign: a package for another architecture is refused, as docs/device.md quotes
// it, and the repository offers none.
func TestDnfForeign(t *testing.T) {
	s := open(t)
	d := newDnf(t, s)
	file := d.file(s.Trust)
	for what, why := range map[string]string{
		s.find(t, "fleet-agent-0.0.9-1", "aarch64.rpm"): "package fleet-agent-0.0.9-1.aarch64 does not have a compatible architecture",
		"fleet-agent.aarch64":                           "No match for argument: fleet-agent.aarch64",
	} {
		if out, err := d.run(file, "install", what); err == nil || !strings.Contains(out, why) {
			t.Errorf("installing %s: %v, want %q in\n%s", what, err, why, out)
		}
	}
	d.has(false, "usr/bin/fleet-agent")
}

// TestDnfTrust: what another key signed is refused, index and package alike.
func TestDnfTrust(t *testing.T) {
	s := open(t)
	d := newDnf(t, s)
	thief, err := shop.NewKey(t.TempDir())
	must(t, err)
	must(t, s.Publish(t.Context(), thief, filepath.Join(s.Repository(), "foreign-rpm")))
	file := strings.Replace(d.file(s.Trust), "/rpm/", "/foreign-rpm/rpm/", 1)
	if out, err := d.run(file, "install", "fleet-agent"); err == nil || !strings.Contains(out, "repomd.xml GPG signature verification error") {
		t.Errorf("an index of another key: %v\n%s", err, out)
	}
	// The index is of a key that is trusted, and the packages are another's.
	binary, armored, err := thief.Public()
	must(t, err)
	file = strings.Replace(d.file(packages.Trust{URL: s.Trust.URL, Binary: binary, Armored: armored}), "/rpm/", "/foreign-rpm/rpm/", 1)
	if out, err := d.run(file, "install", "fleet-agent"); err == nil || !strings.Contains(out, "GPG check FAILED") {
		t.Errorf("packages of another key: %v\n%s", err, out)
	}
	d.has(false, "usr/bin/fleet-agent")
}
