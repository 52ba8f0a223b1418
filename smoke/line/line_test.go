package line_test

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nationtech/harmony-fleet/smoke/line"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small fits into any packet, and large makes some as large as they get.
const small, large = 10, 10_000

// TestFaults asks over a line with each fault, by a new connection.
func TestFaults(t *testing.T) {
	end := lay(t)
	ask := func(size uint32, patience time.Duration) error {
		conn, err := end.dial(patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		return ask(conn, size, patience)
	}
	for name, fault := range map[string]line.Fault{
		"none": {}, "loss": {Loss: 0.3}, "rate": {Rate: 32_000}, "delay": {Delay: 200 * time.Millisecond}, "MTU": {MTU: 1280},
	} {
		end.Break(fault)
		begin := time.Now()
		if err := ask(small, time.Minute); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begin); took < 4*fault.Delay { // to connect, and to ask
			t.Errorf("%s: an answer after %s", name, took)
		}
	}
	end.Break(line.Fault{MTU: 1280})
	if err := ask(large, time.Second); !os.IsTimeout(err) {
		t.Errorf("in packets that are too large there is an answer, or %v", err)
	}
	end.Break(line.Fault{Loss: 1})
	if err := ask(small, time.Second); !os.IsTimeout(err) {
		t.Errorf("all packets are lost, and there is an answer, or %v", err)
	}
	end.Break(line.Fault{})
	if err := ask(large, time.Minute); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// TestConnections asks over connections to which something happens.
func TestConnections(t *testing.T) {
	end := lay(t)
	first, err := end.dial(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := ask(first, small, time.Minute); err != nil {
		t.Fatal(err)
	}
	end.Cut()
	answered := make(chan error, 1)
	go func() { answered <- ask(first, small, time.Minute) }()
	if conn, err := end.dial(time.Second); !os.IsTimeout(err) {
		t.Errorf("over a line that is cut there is the connection %v, or %v", conn, err)
	}
	end.Mend()
	if err := <-answered; err != nil {
		t.Errorf("what was asked while it was cut: %v", err)
	}
	end.Forget()
	if err := ask(first, small, time.Second); !os.IsTimeout(err) {
		t.Errorf("over a connection that is forgotten there is an answer, or %v", err)
	}
	second, err := end.dial(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := ask(second, small, time.Minute); err != nil {
		t.Errorf("over a new one: %v", err)
	}
	end.HangUp()
	if err := ask(second, small, time.Minute); err == nil || os.IsTimeout(err) {
		t.Errorf("over one that was hung up: %v", err)
	}
}

// TestOneWay: nothing but the one address is there.
func TestOneWay(t *testing.T) {
	end := lay(t)
	command := append(end.Inside(), "ip", "route", "get", "192.0.2.1")
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err == nil {
		t.Errorf("there is another way out: %s", out)
	}
}

// end is that of a line to a server.
type end struct {
	*line.Line
	server string
}

// lay lays a line to a server on an address of this host that is not loopback: from
// elsewhere nothing leads there.
func lay(t *testing.T) end {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range addresses {
		network, ok := one.(*net.IPNet)
		if !ok || network.IP.IsLoopback() || network.IP.To4() == nil {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(network.IP.String(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() { serve(listener, &serving) })
		t.Cleanup(serving.Wait)
		t.Cleanup(func() { _ = listener.Close() })
		l, err := line.Lay(t.Context(), listener.Addr().String(), t.Output())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Remove)
		return end{l, listener.Addr().String()}
	}
	t.Skip("this host has no address but those of loopback")
	return end{}
}

// serve answers numbers with so many bytes.
func serve(listener net.Listener, serving *sync.WaitGroup) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		serving.Go(func() {
			defer conn.Close()
			for {
				var size uint32
				if binary.Read(conn, binary.BigEndian, &size) != nil {
					return
				}
				if _, err := conn.Write(make([]byte, size)); err != nil {
					return
				}
			}
		})
	}
}

// ask waits for an answer of so many bytes.
func ask(conn net.Conn, size uint32, patience time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := binary.Write(conn, binary.BigEndian, size); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, size))
	return err
}

// dial connects to the server by a socket of the namespace at the line's end.
func (e end) dial(patience time.Duration) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and it ends with this goroutine
		var there *os.File
		if there, err = os.Open(strings.TrimPrefix(e.Inside()[1], "--net=")); err != nil {
			return
		}
		defer there.Close()
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
			conn, err = net.DialTimeout("tcp", e.server, patience)
		}
	}()
	<-done
	return conn, err
}
