package bus

import (
	"errors"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nationtech/harmony-fleet/smoke/debian"
)

// TestDeadLink: a connection over which nothing arrives any more ends, though nobody says
// that it does.
func TestDeadLink(t *testing.T) {
	if err := debian.Install(t.Context(), "cutting a link", []debian.Program{debian.Iptables}, t.Output()); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := dialer{t.Context(), time.Second}.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	rule := []string{"INPUT", "--protocol", "tcp", "--destination-port", port, "--jump", "DROP"}
	iptables := func(action string) {
		t.Helper()
		if out, err := exec.Command("iptables", append([]string{"--wait", action}, rule...)...).CombinedOutput(); err != nil {
			t.Fatalf("iptables %s: %v\n%s", action, err, out)
		}
	}
	iptables("--insert")
	defer iptables("--delete")
	if _, err := conn.Write([]byte("heartbeat")); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("it ended with %v, want %v", err, syscall.ETIMEDOUT)
	}
}

// TestSegment: neither side puts more into a packet than gets through everywhere.
func TestSegment(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	own, err := dialer{t.Context(), time.Second}.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Close() }()
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	for who, conn := range map[string]net.Conn{"the agent": own, "the broker": other} {
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var most int
		failed := raw.Control(func(fd uintptr) { most, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
		if err := errors.Join(failed, err); err != nil {
			t.Fatal(err)
		}
		if most > segment {
			t.Errorf("%s puts %d bytes into a packet", who, most)
		}
	}
}
