package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/pki"
)

// handshaker does TLS handshakes over loopback, and nothing else: full ones of
// TLS 1.3 with a certificate of a P-256 key, which the client verifies. Versions,
// key exchange and session tickets are Go's defaults, and so those of nats-server
// and its client. Both sides are in this process: they share its cores.
type handshaker struct{ server, client *tls.Config }

func newHandshaker() (*handshaker, error) {
	ca, err := pki.NewAuthority()
	if err != nil {
		return nil, err
	}
	issued, err := ca.Issue(pkix.Name{CommonName: "nats"}, "127.0.0.1")
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(issued.Cert, issued.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate back: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM)
	return &handshaker{
		server: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13},
		client: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13},
	}, nil
}

// run does n handshakes, twice as many at a time as there are cores. It returns
// how long that took, and the CPU time of this process for each one.
func (h *handshaker) run(ctx context.Context, n int) (took, each time.Duration, err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	var serving sync.WaitGroup
	serving.Go(func() { h.serve(listener) })
	defer serving.Wait()
	defer func() { _ = listener.Close() }() // which ends the serving
	runtime.GC()
	begin, used := time.Now(), cpuTime()
	err = parallel(n, func(int) error { return h.dial(ctx, listener.Addr().String()) })
	took, used = time.Since(begin), cpuTime()-used
	return took, used / time.Duration(n), err
}

// serve answers until the listener is closed.
func (h *handshaker) serve(listener net.Listener) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer conn.Close()
			secured := tls.Server(conn, h.server)
			// The first byte says that this side too is done; the client tells
			// when it never comes.
			_, _ = secured.Write([]byte{'+'})
		})
	}
}

func (h *handshaker) dial(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: h.client}).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("shaking hands: %w", err)
	}
	defer conn.Close()
	if state := conn.(*tls.Conn).ConnectionState(); state.DidResume || state.Version != tls.VersionTLS13 {
		return errors.New("shaking hands: not a full handshake of TLS 1.3")
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("shaking hands: %w", err)
	}
	return nil
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err) // it has no way to fail
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
