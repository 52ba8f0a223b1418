package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/debian"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// Addresses in a machine. The world is a network in which qemu stands for the router:
// it has the host's loopback for its own, and passes on what is for others.
const (
	// Host is this host as machines see it.
	Host = "10.0.2.2"
	// desk is the network of the cable that ssh and the containers' ports come by.
	desk = "10.0.3.0/24"
	// deskAddress is the machine's there, as files/etc/systemd has it.
	deskAddress = "10.0.3.15"
)

// platform is how qemu stands for a computer of an architecture.
type platform struct {
	program, from   string // and the Debian package that has it
	machine, cpu    string
	acpi            bool   // tells Linux of the hardware; else a device tree does
	console, kernel string // its name for Linux, and what Linux is told besides
}

var platforms = map[string]platform{
	// Levels of page tables that nobody needs make every access slower where they
	// are walked by a program.
	"amd64": {"qemu-system-x86_64", "qemu-system-x86", "pc", "max,la57=off", true, "ttyS0", "mitigations=off nokaslr no_timer_check tsc=reliable"},
	"arm64": {"qemu-system-aarch64", "qemu-system-arm", "virt", "max,pauth-impdef=on", false, "ttyAMA0", "mitigations=off nokaslr"},
}

func (p platform) path() string { return "/usr/bin/" + p.program }

// Machines are small, as devices are.
const (
	processors = 2
	memoryMiB  = 1024
)

// installQemu installs what runs a machine.
func installQemu(ctx context.Context, arch string, progress io.Writer) error {
	p, known := platforms[arch]
	if !known {
		return fmt.Errorf("ARCH: there is no machine of the architecture %q: amd64 and arm64 are known", arch)
	}
	return debian.Install(ctx, "a virtual machine", []debian.Program{
		{Package: p.from, Paths: []string{p.path()}},
		{Package: "qemu-utils", Paths: []string{"/usr/bin/qemu-img"}},
	}, progress)
}

// processes are machines that are qemu and nothing else.
type processes struct{}

func (processes) start(m *Machine, o Boot) (power, error) {
	p, accel := platforms[m.image.arch], m.accelerator
	if accel == tcg {
		accel = fmt.Sprintf("tcg,thread=multi,tb-size=%d", translationsMiB)
	}
	args := append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-S",
		"-machine", p.machine, "-accel", accel, "-smp", strconv.Itoa(processors), "-m", strconv.Itoa(memoryMiB),
	}, m.arguments(o)...)
	started, err := process.Start(process.Spec{Path: p.path(), Args: args, Log: m.path("qemu.log")})
	if err != nil {
		return nil, err
	}
	return plain{started}, nil
}

// reap has nothing to do: these end with their process.
func (processes) reap(string) error { return nil }

// plain is a machine that is a process.
type plain struct{ *process.Process }

func (p plain) cut() { p.Stop(0) }

// arguments of qemu by which a machine is what it is, whoever runs that.
func (m *Machine) arguments(o Boot) []string {
	p := platforms[m.image.arch]
	kernel := []string{"root=/dev/vda", "rw", "quiet", "net.ifnames=0", "console=" + p.console, p.kernel}
	if m.options.CloudConfig == "" {
		kernel = append(kernel, "cloud-init=disabled")
	}
	if !m.options.Person {
		kernel = append(kernel, "systemd.journald.forward_to_console=1", "systemd.show_status=false", "systemd.mask=serial-getty@"+p.console+".service")
	}
	forwards := fmt.Sprintf("hostfwd=tcp:127.0.0.1:%d-%s:22,hostfwd=tcp:127.0.0.1:%d-%s:%d", m.sshPort, deskAddress, m.webPort, deskAddress, Port)
	args := []string{
		"-cpu", p.cpu, "-kernel", m.image.kernel(), "-initrd", m.image.initrd(), "-append", strings.Join(kernel, " "),
		// What the guest has not flushed is lost with the power, as in a disk's cache.
		"-drive", "if=none,id=disk,format=qcow2,cache=writeback,file=" + m.path("disk.qcow2"), "-device", "virtio-blk-pci,drive=disk",
		"-netdev", "user,id=world", "-device", "virtio-net-pci,id=" + worldCable + ",netdev=world,romfile=",
		"-netdev", "user,id=desk,restrict=on,net=" + desk + "," + forwards, "-device", "virtio-net-pci,netdev=desk,romfile=",
		"-device", "virtio-rng-pci",
		"-chardev", "socket,id=console,server=on,wait=off,path=" + m.path("console") + ",logappend=on,logfile=" + m.ConsoleLog(),
		"-serial", "chardev:console",
		"-qmp", "unix:" + m.path("qmp") + ",server=on,wait=off",
	}
	if m.options.CloudConfig != "" {
		args = append(args, "-drive", "if=none,id=seed,read-only=on,driver=vvfat,label=cidata,dir="+m.path("seed"), "-device", "virtio-blk-pci,drive=seed")
	}
	if !o.Clock.IsZero() {
		args = append(args, "-rtc", "base="+o.Clock.UTC().Format("2006-01-02T15:04:05"))
	}
	return args
}

// Accelerators. TCG is qemu's own processor, which is there everywhere.
const (
	kvm = "kvm"
	tcg = "tcg"
)

// translationsMiB is how much memory TCG may take for what it translated.
const translationsMiB = 256

// kvmTime is how long a kernel may take to say its first word under KVM.
const kvmTime = 5 * time.Second

// accelerators of this host, by architecture: it is tried once.
var accelerators sync.Map

// accelerator is KVM where it boots this kernel, which on a host that is a virtual
// machine itself it may not, whatever is in /dev; else TCG.
func accelerator(i image, dir string, progress io.Writer) (string, error) {
	if known, ok := accelerators.Load(i.arch); ok {
		return known.(string), nil
	}
	found, why := tcg, "TCG, because this host is of another architecture"
	if i.arch == runtime.GOARCH {
		works, reason, err := kvmBoots(i, dir)
		if err != nil {
			return "", err
		}
		if found, why = kvm, "KVM"; !works {
			found, why = tcg, "TCG, because "+reason
		}
	}
	fmt.Fprintf(progress, "machines of %s run by %s\n", i.arch, why)
	accelerators.Store(i.arch, found)
	return found, nil
}

// kvmBoots boots the kernel without a disk, until it says what it is.
func kvmBoots(i image, dir string) (works bool, reason string, err error) {
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false, err.Error(), nil
	}
	_ = file.Close() // nothing was written
	p := platforms[i.arch]
	console := filepath.Join(dir, "kvm-console")
	trial, err := process.Start(process.Spec{
		Path: p.program, Log: filepath.Join(dir, "kvm.log"),
		Args: []string{
			"-nodefaults", "-no-user-config", "-display", "none", "-machine", p.machine, "-cpu", "host", "-accel", "kvm", "-m", "256",
			"-kernel", i.kernel(), "-append", "console=" + p.console + " earlyprintk=" + p.console, "-serial", "file:" + console,
		},
	})
	if err != nil {
		return false, "", err
	}
	defer trial.Stop(0)
	for end := time.Now().Add(kvmTime); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if said, _ := os.ReadFile(console); strings.Contains(string(said), "Linux version") {
			return true, "", nil
		}
		if trial.Failure() != nil {
			return false, "KVM does not start: " + trial.LogTail(1), nil
		}
	}
	return false, fmt.Sprintf("with KVM a kernel says nothing within %s", kvmTime), nil
}
