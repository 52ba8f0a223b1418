package broker

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Router passes connections on by the host that TLS's handshake names, as a Gateway's
// TLSRoute or a Route of OpenShift does. It deciphers nothing, and it never gets to
// see a handshake of who waits for the broker to speak first.
type Router struct {
	brokers  map[string]string // host and port by name
	listener net.Listener
	work     sync.WaitGroup
}

// helloPatience is how long a client may take to say hello.
const helloPatience = time.Second

// NewRouter routes each name to the broker of that URL.
func NewRouter(routes map[string]string) (*Router, error) {
	listener, err := net.Listen("tcp", loopback(0))
	if err != nil {
		return nil, fmt.Errorf("routing to the broker: %w", err)
	}
	r := &Router{brokers: map[string]string{}, listener: listener}
	for name, url := range routes {
		_, r.brokers[name], _ = strings.Cut(url, "://")
	}
	r.work.Go(r.accept)
	return r, nil
}

// Port on 127.0.0.1.
func (r *Router) Port() int { return r.listener.Addr().(*net.TCPAddr).Port }

// Close takes no more connections, and returns when those that there are have ended.
func (r *Router) Close() {
	_ = r.listener.Close() // nothing is lost with it
	r.work.Wait()
}

func (r *Router) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.work.Go(func() { r.serve(conn) })
	}
}

func (r *Router) serve(client net.Conn) {
	defer client.Close()
	name, said, err := hello(client)
	if err != nil || r.brokers[name] == "" {
		return
	}
	broker, err := net.Dial("tcp", r.brokers[name])
	if err != nil {
		return
	}
	defer broker.Close()
	r.work.Go(func() {
		_, _ = io.Copy(broker, io.MultiReader(bytes.NewReader(said), client))
		_ = broker.Close() // ends the other direction too
	})
	_, _ = io.Copy(client, broker)
}

// hello reads the client's hello, and returns the host that it names and all that was
// read.
func hello(client net.Conn) (name string, said []byte, err error) {
	if err := client.SetReadDeadline(time.Now().Add(helloPatience)); err != nil {
		return "", nil, err
	}
	var read bytes.Buffer
	heard := errors.New("that is all that there is to know")
	listen := &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name = h.ServerName
		return nil, heard
	}}
	if err := tls.Server(mute{client, io.TeeReader(client, &read)}, listen).Handshake(); !errors.Is(err, heard) {
		return "", nil, fmt.Errorf("reading a hello: %w", err)
	}
	return name, read.Bytes(), client.SetReadDeadline(time.Time{})
}

// mute is a connection on which nothing is said.
type mute struct {
	net.Conn
	reader io.Reader
}

// Read reads what the other side says.
func (m mute) Read(into []byte) (int, error) { return m.reader.Read(into) }

// Write keeps it to itself.
func (m mute) Write(said []byte) (int, error) { return len(said), nil }
