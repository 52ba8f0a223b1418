package line_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nationtech/harmony-fleet/smoke/line"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLine asks a server over a line with each fault: it is cut when it is cut, long when
// it is long, and else things arrive.
func TestLine(t *testing.T) {
	server := serve(t)
	l, err := line.Lay(t.Context(), t.TempDir(), server, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Remove)
	ask := func(patience time.Duration) error { return askInside(t, l, server, patience) }
	const delay = 200 * time.Millisecond
	for name, fault := range map[string]line.Fault{
		"none": {}, "loss": {Loss: 0.3}, "rate": {Rate: 32_000}, "delay": {Delay: delay},
	} {
		if err := l.Break(t.Context(), fault); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		begin := time.Now()
		if err := ask(time.Minute); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begin); took < 2*fault.Delay {
			t.Errorf("%s: an answer after %s", name, took)
		}
	}
	if err := l.Break(t.Context(), line.Fault{Loss: 1}); err != nil {
		t.Fatal(err)
	}
	if err := ask(time.Second); err == nil {
		t.Error("an answer though all packets are lost")
	}
	if err := l.Break(t.Context(), line.Fault{}); err != nil {
		t.Fatal(err)
	}
	if err := l.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ask(time.Second); err == nil {
		t.Error("an answer over a line that is cut")
	}
	if err := l.Mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ask(time.Minute); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// serve serves on an address of this host that is not loopback: from elsewhere nothing
// leads there.
func serve(t *testing.T) (address string) {
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
		answer := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }
		server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: time.Minute}
		go server.Serve(listener) //nolint:errcheck // ends with ErrServerClosed
		t.Cleanup(func() { _ = server.Close() })
		return listener.Addr().String()
	}
	t.Skip("this host has no address but those of loopback")
	return ""
}

// askInside asks with a socket of the namespace at the line's end.
func askInside(t *testing.T, l *line.Line, address string, patience time.Duration) error {
	t.Helper()
	pid := strings.TrimPrefix(l.Inside()[1], "--target=")
	dial := func(ctx context.Context, network, to string) (conn net.Conn, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and it ends with this goroutine
			var there *os.File
			if there, err = os.Open("/proc/" + pid + "/ns/net"); err != nil {
				return
			}
			defer there.Close()
			if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, to)
			}
		}()
		<-done
		return conn, err
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	response, err := client.Get("http://" + address)
	if err != nil {
		return err
	}
	return response.Body.Close()
}
