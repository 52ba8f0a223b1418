// Package vm supplies devices that are computers of their own: virtual machines with a
// Debian, systemd and podman, which can be switched off at any moment and cut off from
// the network. qemu runs them, by KVM where that boots a kernel and by TCG else, also
// those of another architecture; where libvirt is there they are domains of it. Disks are
// made of Debian packages and cached. It knows nothing of the fleet, installs no libvirt,
// and leaves nothing behind, also when its process is killed.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/nationtech/harmony-fleet/smoke/claim"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// Port is the one of a machine that this host reaches, for a container to take.
const Port = 8080

// Options of a machine.
type Options struct {
	// Architecture as Go names it; "" is this host's.
	Architecture string
	// Packages of Debian that its disk has besides what all have, by their names with
	// spaces between.
	Packages string
	// CloudConfig is what cloud-init does at each boot, until it is told to stop by
	// the file /etc/cloud/cloud-init.disabled; "" has it do nothing.
	CloudConfig string
	// Person has the console to himself. Else the journal goes there too.
	Person   bool
	Progress io.Writer // hears of what takes minutes
}

// Machine is a computer. It is off until it is booted. Its methods are called one at a
// time.
type Machine struct {
	options     Options
	image       image
	hypervisor  hypervisor
	accelerator string
	dir         string
	owner       *os.File

	sshPort, webPort int
	power            power       // nil while it is off
	client           *ssh.Client // nil until it has booted
}

// Boot says how a machine is switched on; the zero value is as usual.
type Boot struct {
	// Clock is what the computer's clock shows; zero is the time.
	Clock time.Time
	// Offline has the cable to the world unplugged.
	Offline bool
}

// bootTime is how long a boot may take: half a minute by TCG when little else is done.
const bootTime = 8 * time.Minute

const (
	temporaryPrefix = "fleet-vm-"
	markFile        = "disk.qcow2"
)

// Prepare gets everything that a machine of this host's architecture needs, so that none
// waits for a download.
func Prepare(ctx context.Context, progress io.Writer) error {
	if err := installQemu(ctx, runtime.GOARCH, progress); err != nil {
		return err
	}
	_, err := getImage(ctx, runtime.GOARCH, "", progress)
	return err
}

// New makes a machine, which has not been switched on. Stop removes it.
func New(ctx context.Context, o Options) (_ *Machine, err error) {
	if o.Architecture == "" {
		o.Architecture = runtime.GOARCH
	}
	if err := installQemu(ctx, o.Architecture, o.Progress); err != nil {
		return nil, err
	}
	m := &Machine{options: o}
	if m.hypervisor, err = getHypervisor(o.Progress); err != nil {
		return nil, err
	}
	if err := claim.Reap(temporaryPrefix, markFile, m.reap); err != nil {
		return nil, err
	}
	if m.image, err = getImage(ctx, o.Architecture, o.Packages, o.Progress); err != nil {
		return nil, err
	}
	if m.dir, err = os.MkdirTemp("", temporaryPrefix); err != nil {
		return nil, fmt.Errorf("making a folder for a machine: %w", err)
	}
	if err := m.assemble(ctx); err != nil {
		return nil, errors.Join(err, m.Stop())
	}
	return m, nil
}

// reap removes what a killed process left of its machine.
func (m *Machine) reap(dir string) error {
	return errors.Join(m.hypervisor.reap(filepath.Base(dir)), os.RemoveAll(dir))
}

// assemble gets ready all that a boot needs.
func (m *Machine) assemble(ctx context.Context) (err error) {
	if m.owner, err = claim.Take(m.dir); err != nil {
		return err
	}
	if m.accelerator, err = accelerator(m.image, m.dir, m.options.Progress); err != nil {
		return err
	}
	for _, port := range []*int{&m.sshPort, &m.webPort} {
		if *port, err = process.FreePort(); err != nil {
			return err
		}
	}
	if m.options.CloudConfig != "" {
		if err := m.seed(); err != nil {
			return err
		}
	}
	return command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", m.image.disk(), m.path(markFile))
}

// seed writes the disk on which cloud-init finds what to do.
func (m *Machine) seed() error {
	if err := os.Mkdir(m.path("seed"), 0o700); err != nil {
		return fmt.Errorf("making a disk for cloud-init: %w", err)
	}
	return errors.Join(
		os.WriteFile(m.path("seed/meta-data"), []byte("instance-id: device\n"), 0o600),
		os.WriteFile(m.path("seed/user-data"), []byte(m.options.CloudConfig), 0o600),
	)
}

// Boot switches the machine on and returns when root can log in.
func (m *Machine) Boot(ctx context.Context, o Boot) (err error) {
	if m.power != nil {
		return errors.New("the machine is on already")
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("booting a machine: %w; its console:\n%s", err, m.Console(30))
			m.Cut()
		}
	}()
	// Sockets of the last time would be taken for this one's.
	if err := errors.Join(os.RemoveAll(m.path("qmp")), os.RemoveAll(m.path("console"))); err != nil {
		return err
	}
	if m.power, err = m.hypervisor.start(m, o); err != nil {
		return err
	}
	err = m.power.WaitReady(ctx, func(context.Context) error {
		_, err := os.Stat(m.path("qmp"))
		return err
	})
	if err != nil {
		return err
	}
	if err := m.tell(link(!o.Offline), order{Execute: "cont"}); err != nil {
		return err
	}
	return m.power.WaitReady(ctx, func(ctx context.Context) (err error) {
		m.client, err = m.login(ctx)
		return err
	})
}

// Cut switches the power off: what is not on the disk is lost. It may be called more
// than once.
func (m *Machine) Cut() {
	if m.power != nil {
		m.power.cut()
	}
	if m.client != nil {
		_ = m.client.Close() // the other end is gone
	}
	m.power, m.client = nil, nil
}

// Plug plugs the cable to the world in, or pulls it.
func (m *Machine) Plug(in bool) error { return m.tell(link(in)) }

// Stop switches the machine off and removes it.
func (m *Machine) Stop() error {
	m.Cut()
	if m.owner != nil {
		defer m.owner.Close()
	}
	return os.RemoveAll(m.dir)
}

// Reach is how every machine gets to what is at an address of this host's loopback, also
// when more follows that, such as the name of an image.
func Reach(address string) string { return strings.Replace(address, "127.0.0.1", Host, 1) }

// URL is where this host finds what a container serves at Port.
func (m *Machine) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", m.webPort) }

// SSH is the command by which a person logs in.
func (m *Machine) SSH() string {
	return fmt.Sprintf("ssh -i %s -p %d -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@127.0.0.1", m.image.key(), m.sshPort)
}

// ConsoleLog is the file with all that the console has shown, and ConsoleSocket the
// socket that leads there.
func (m *Machine) ConsoleLog() string { return m.path("console.log") }

// ConsoleSocket is the console.
func (m *Machine) ConsoleSocket() string { return m.path("console") }

// Shown is how much the console has shown until now, in bytes.
func (m *Machine) Shown() int64 {
	info, err := os.Stat(m.ConsoleLog())
	if err != nil {
		return 0
	}
	return info.Size()
}

// Await returns when the console has shown the words, beyond what it had shown.
func (m *Machine) Await(ctx context.Context, shown int64, words string) error {
	return m.power.WaitReady(ctx, func(context.Context) error {
		content, err := os.ReadFile(m.ConsoleLog())
		if err == nil && !strings.Contains(string(content[min(shown, int64(len(content))):]), words) {
			err = fmt.Errorf("the console does not show %q", words)
		}
		return err
	})
}

// Console is the end of what it has shown.
func (m *Machine) Console(lines int) string {
	return tail(m.ConsoleLog(), lines)
}

// tail is the end of a file.
func tail(file string, lines int) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return fmt.Sprintf("(nothing: %v)", err)
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (m *Machine) path(name string) string { return filepath.Join(m.dir, name) }
