package vm

import (
	"encoding/xml"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What libvirt is told, with the first of qemu's arguments.
func TestDomain(t *testing.T) {
	tests := map[string]struct {
		reason      string
		arch        string
		accelerator string
		models      []string
		want        string
	}{
		"amd64": {
			reason: "this is what a machine is, confined by nobody", arch: "amd64", accelerator: kvm, models: []string{"apparmor", "dac"},
			want: `
<domain type="kvm" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>fleet-vm-1</name>
  <memory unit="MiB">1024</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch="x86_64" machine="pc">hvm</type>
  </os>
  <features>
    <acpi></acpi>
  </features>
  <seclabel type="none" model="apparmor"></seclabel>
  <seclabel type="static" model="dac" relabel="no">
    <label>+0:+0</label>
  </seclabel>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type="usb" model="none"></controller>
    <memballoon model="none"></memballoon>
  </devices>
  <qemu:commandline>
    <qemu:arg value="-cpu"></qemu:arg>
  </qemu:commandline>
</domain>`,
		},
		"arm64": {
			reason: "libvirt refuses ACPI for a machine of arm64 that has no firmware", arch: "arm64", accelerator: tcg,
			want: `
<domain type="qemu" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>fleet-vm-1</name>
  <memory unit="MiB">1024</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch="aarch64" machine="virt">hvm</type>
  </os>
  <features>
    <tcg>
      <tb-cache unit="MiB">256</tb-cache>
    </tcg>
  </features>
  <devices>
    <emulator>/usr/bin/qemu-system-aarch64</emulator>
    <controller type="usb" model="none"></controller>
    <memballoon model="none"></memballoon>
  </devices>
  <qemu:commandline>
    <qemu:arg value="-cpu"></qemu:arg>
  </qemu:commandline>
</domain>`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			m := Machine{dir: "/tmp/fleet-vm-1", image: image{arch: tc.arch}, accelerator: tc.accelerator}
			d := m.domain(Boot{}, tc.models)
			d.Arguments = d.Arguments[:1]
			got, err := xml.MarshalIndent(d, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimSpace(tc.want), string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// All of qemu's arguments get to it, in their order.
func TestDomainArguments(t *testing.T) {
	m := Machine{dir: "/tmp/fleet-vm-1", image: image{arch: "amd64", dir: "/tmp/<&\"'"}, options: Options{CloudConfig: "#cloud-config"}}
	o := Boot{Clock: time.Unix(0, 0)}
	text, err := xml.Marshal(m.domain(o, nil))
	if err != nil {
		t.Fatal(err)
	}
	var read struct {
		Arguments []argument `xml:"http://libvirt.org/schemas/domain/qemu/1.0 commandline>arg"`
	}
	if err := xml.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range read.Arguments {
		got = append(got, a.Value)
	}
	if diff := cmp.Diff(m.arguments(o), got); diff != "" {
		t.Errorf("the arguments in %s (-want +got):\n%s", text, diff)
	}
	if !slices.Contains(got, "base=1970-01-01T00:00:00") {
		t.Errorf("the clock is not among %q", got)
	}
}

// A word for the hypervisor that means nothing is an error, not the default.
func TestMachinesVariable(t *testing.T) {
	t.Setenv(machinesVariable, "xen")
	if _, err := getHypervisor(t.Output()); err == nil || !strings.Contains(err.Error(), machinesVariable) {
		t.Errorf("want an error that names the variable, got %v", err)
	}
}
