package vm

import (
	"context"
	"fmt"
	"io"
	"os"
)

// hypervisor runs machines. Whichever does, qemu has the same arguments.
type hypervisor interface {
	// start switches a machine on. It is paused, and takes orders soon.
	start(m *Machine, o Boot) (power, error)
	// reap ends the machine of a process that was killed, if it outlived that.
	reap(name string) error
}

// power is that of a machine which is on.
type power interface {
	// WaitReady calls probe until it returns nil. It fails when the machine goes off
	// by itself or the context is done, and says why.
	WaitReady(ctx context.Context, probe func(context.Context) error) error
	// cut has the machine end before it can write anything more.
	cut()
}

// machinesVariable says who runs machines: "libvirt" or "qemu". Empty is libvirt where
// that answers, and else qemu.
const machinesVariable = "MACHINES"

// getHypervisor finds it, and says which it is.
func getHypervisor(progress io.Writer) (hypervisor, error) {
	wanted := os.Getenv(machinesVariable)
	if wanted != "" && wanted != "libvirt" && wanted != "qemu" {
		return nil, fmt.Errorf("%s: %q is neither libvirt nor qemu", machinesVariable, wanted)
	}
	why := machinesVariable + "=qemu"
	if wanted != "qemu" {
		l, err := findLibvirt()
		if err == nil {
			fmt.Fprintln(progress, "machines are domains of libvirt: virsh --connect qemu:///system list")
			return l, nil
		}
		if wanted == "libvirt" {
			return nil, fmt.Errorf("%s=libvirt: %w", machinesVariable, err)
		}
		why = err.Error()
	}
	fmt.Fprintf(progress, "machines are plain processes of qemu: %s\n", why)
	return processes{}, nil
}
