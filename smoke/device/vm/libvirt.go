package vm

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// libvirtSockets are where libvirt listens: the daemon for everything, and the one for
// qemu alone.
var libvirtSockets = []string{"/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"}

// libvirtd runs machines as domains that libvirt forgets when they end.
type libvirtd struct {
	socket string
	models []string // of security, that this host has
}

// findLibvirt returns the first that answers.
func findLibvirt() (libvirtd, error) {
	problem := fmt.Errorf("there is no libvirt at %s", strings.Join(libvirtSockets, " or "))
	for _, socket := range libvirtSockets {
		if _, err := os.Stat(socket); err != nil {
			continue
		}
		l := libvirtd{socket: socket}
		if problem = l.look(); problem == nil {
			return l, nil
		}
	}
	return libvirtd{}, problem
}

func (l libvirtd) connect() (*libvirt.Libvirt, error) {
	conn := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(l.socket)))
	if err := conn.ConnectToURI(libvirt.QEMUSystem); err != nil {
		return nil, fmt.Errorf("connecting to libvirt at %s: %w", l.socket, err)
	}
	return conn, nil
}

// look learns what this host is like.
func (l *libvirtd) look() error {
	conn, err := l.connect()
	if err != nil {
		return err
	}
	defer disconnect(conn)
	text, err := conn.ConnectGetCapabilities()
	if err != nil {
		return fmt.Errorf("asking libvirt what it is capable of: %w", err)
	}
	var capabilities struct {
		Models []string `xml:"host>secmodel>model"`
	}
	if err := xml.Unmarshal([]byte(text), &capabilities); err != nil {
		return fmt.Errorf("reading what libvirt is capable of: %w", err)
	}
	l.models = capabilities.Models
	return nil
}

func disconnect(conn *libvirt.Libvirt) { _ = conn.Disconnect() } // the daemon may be gone

func (l libvirtd) start(m *Machine, o Boot) (power, error) {
	d := m.domain(o, l.models)
	text, err := xml.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("describing a machine for libvirt: %w", err)
	}
	conn, err := l.connect()
	if err != nil {
		return nil, err
	}
	// It is destroyed with the connection, and so when this process is killed.
	handle, err := conn.DomainCreateXML(string(text), libvirt.DomainStartPaused|libvirt.DomainStartAutodestroy)
	if err != nil {
		disconnect(conn)
		_ = os.Remove(qemuLog(d.Name)) // the error has what is in it
		return nil, fmt.Errorf("having libvirt start a machine: %w (%s=qemu does without libvirt)", err, machinesVariable)
	}
	r := &running{conn: conn, domain: handle}
	if r.qemu, err = listening(m.path("qmp")); err != nil {
		r.cut()
		return nil, err
	}
	return r, nil
}

func (l libvirtd) reap(name string) error {
	conn, err := l.connect()
	if err != nil {
		return err
	}
	defer disconnect(conn)
	d, err := conn.DomainLookupByName(name)
	if err != nil && !libvirt.IsNotFound(err) {
		return fmt.Errorf("looking for the machine %s: %w", name, err)
	}
	if err == nil {
		_ = conn.DomainDestroy(d) // it may have ended since
	}
	_ = os.Remove(qemuLog(name))
	return nil
}

// qemuLog is where libvirt has what qemu writes, and leaves it.
func qemuLog(name string) string { return "/var/log/libvirt/qemu/" + name + ".log" }

// running is a machine that libvirt runs.
type running struct {
	conn   *libvirt.Libvirt
	domain libvirt.Domain
	qemu   *os.Process
}

// WaitReady is that of a process.
func (r *running) WaitReady(ctx context.Context, probe func(context.Context) error) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		if _, _, gone := r.conn.DomainGetState(r.domain, 0); gone != nil {
			return fmt.Errorf("the machine is not on: %w; the last lines of qemu:\n%s", gone, tail(qemuLog(r.domain.Name), 15))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the machine: %w: %w", context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// cut kills qemu, which libvirt would first ask to end: then qemu writes what it has
// held back, and nothing is lost as it is with the power.
func (r *running) cut() {
	if r.qemu != nil {
		_ = r.qemu.Kill() // it may have ended
		_ = r.qemu.Release()
	}
	_ = r.conn.DomainDestroy(r.domain) // and returns when libvirt has noticed that
	disconnect(r.conn)
	_ = os.Remove(qemuLog(r.domain.Name))
}

// listening is the process that listens at a socket.
func listening(socket string) (*os.Process, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("looking who listens at %s: %w", socket, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("looking who listens at %s: %w", socket, err)
	}
	var peer *syscall.Ucred
	var problem error
	err = raw.Control(func(fd uintptr) {
		peer, problem = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(err, problem); err != nil {
		return nil, fmt.Errorf("looking who listens at %s: %w", socket, err)
	}
	return os.FindProcess(int(peer.Pid))
}
