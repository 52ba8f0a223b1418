package broker

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// Front is who stands between devices and their broker: it speaks TLS with them as
// it likes, passes everything on to a broker that speaks none, and keeps what they
// say. Tests have devices meet it; what it is told with its certificate trusted, it
// is told with none.
type Front struct {
	broker   string // host and port
	secure   *tls.Config
	listener net.Listener
	work     sync.WaitGroup

	mu    sync.Mutex
	open  map[net.Conn]bool // with mu; nil once closed
	heard bytes.Buffer      // with mu
}

// NewFront stands before the broker of that URL. A nil config has it tell devices
// that there is no TLS to be had.
func NewFront(url string, secure *tls.Config) (*Front, error) {
	listener, err := net.Listen("tcp", loopback(0))
	if err != nil {
		return nil, fmt.Errorf("standing before the broker: %w", err)
	}
	f := &Front{broker: strings.TrimPrefix(url, "nats://"), secure: secure, listener: listener, open: map[net.Conn]bool{}}
	f.work.Go(f.accept)
	return f, nil
}

// URL at which devices meet it.
func (f *Front) URL() string { return "tls://" + f.listener.Addr().String() }

// Heard is all that devices have said to it, deciphered.
func (f *Front) Heard() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard.String()
}

// Close ends all connections.
func (f *Front) Close() {
	_ = f.listener.Close() // nothing is lost with it
	f.mu.Lock()
	for conn := range f.open {
		_ = conn.Close()
	}
	f.open = nil
	f.mu.Unlock()
	f.work.Wait()
}

func (f *Front) accept() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.work.Go(func() { f.serve(conn) })
	}
}

// serve passes on what one device and the broker say until either hangs up.
func (f *Front) serve(device net.Conn) {
	defer f.keep(device)()
	upstream, err := net.Dial("tcp", f.broker)
	if err != nil {
		return
	}
	defer f.keep(upstream)()
	// What the broker says first is in clear, and says whether TLS follows.
	reader := bufio.NewReader(upstream)
	info, err := reader.ReadString('\n')
	if err != nil {
		return
	}
	var stream io.ReadWriter = device
	if f.secure != nil {
		info = strings.Replace(info, "INFO {", `INFO {"tls_required":true,`, 1)
		stream = tls.Server(device, f.secure)
	}
	if _, err := io.WriteString(device, info); err != nil {
		return
	}
	f.work.Go(func() {
		_, _ = io.Copy(io.MultiWriter(record{f}, upstream), stream)
		_ = upstream.Close() // ends the other direction too
	})
	_, _ = io.Copy(stream, reader)
}

// keep has Close end a connection, and returns what ends it before.
func (f *Front) keep(conn net.Conn) (end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		_ = conn.Close()
	} else {
		f.open[conn] = true
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.open, conn)
		_ = conn.Close()
	}
}

// record writes to what a Front has heard.
type record struct{ *Front }

// Write implements io.Writer.
func (r record) Write(said []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard.Write(said)
}
