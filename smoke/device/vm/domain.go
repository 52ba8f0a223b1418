package vm

import (
	"encoding/xml"
	"path/filepath"
	"strings"
)

// domain is a machine as libvirt is told of it: what libvirt insists on knowing. The
// rest is qemu's arguments, so that there is one description of a machine.
type domain struct {
	XMLName   xml.Name   `xml:"domain"`
	Type      string     `xml:"type,attr"`
	Namespace string     `xml:"xmlns:qemu,attr"`
	Name      string     `xml:"name"`
	Memory    memory     `xml:"memory"`
	CPUs      int        `xml:"vcpu"`
	System    system     `xml:"os>type"`
	ACPI      *struct{}  `xml:"features>acpi"`
	TCG       *memory    `xml:"features>tcg>tb-cache"`
	Labels    []label    `xml:"seclabel"`
	Emulator  string     `xml:"devices>emulator"`
	USB       device     `xml:"devices>controller"`
	Balloon   device     `xml:"devices>memballoon"`
	Arguments []argument `xml:"qemu:commandline>qemu:arg"`
}

type memory struct {
	Unit  string `xml:"unit,attr"`
	Value int    `xml:",chardata"`
}

type system struct {
	Architecture string `xml:"arch,attr"`
	Machine      string `xml:"machine,attr"`
	Kind         string `xml:",chardata"`
}

// label says what a security model of this host does with the machine.
type label struct {
	Type    string `xml:"type,attr"`
	Model   string `xml:"model,attr"`
	Relabel string `xml:"relabel,attr,omitempty"`
	Label   string `xml:"label,omitempty"`
}

type device struct {
	Type  string `xml:"type,attr,omitempty"`
	Model string `xml:"model,attr"`
}

type argument struct {
	Value string `xml:"value,attr"`
}

// domain describes the machine for a host that has the security models.
func (m *Machine) domain(o Boot, models []string) domain {
	p := platforms[m.image.arch]
	d := domain{
		Type:      kvm,
		Namespace: "http://libvirt.org/schemas/domain/qemu/1.0",
		Name:      filepath.Base(m.dir),
		Memory:    memory{"MiB", memoryMiB},
		CPUs:      processors,
		System:    system{strings.TrimPrefix(p.program, "qemu-system-"), p.machine, "hvm"},
		Emulator:  p.path(),
		// What libvirt would add, and a plain machine does not have.
		USB:     device{"usb", "none"},
		Balloon: device{Model: "none"},
	}
	if m.accelerator == tcg {
		d.Type, d.TCG = "qemu", &memory{"MiB", translationsMiB}
	}
	if p.acpi {
		d.ACPI = &struct{}{}
	}
	// The machine's files are root's, in a folder that is root's alone: a qemu of
	// another user, or one that is confined to the disks of a domain, would not get there.
	for _, model := range models {
		l := label{Type: "none", Model: model}
		if model == "dac" {
			l = label{Type: "static", Model: model, Relabel: "no", Label: "+0:+0"}
		}
		d.Labels = append(d.Labels, l)
	}
	for _, a := range m.arguments(o) {
		d.Arguments = append(d.Arguments, argument{a})
	}
	return d
}
