package bus

import (
	"errors"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

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
