package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// headers of a segment: IPv4's, TCP's and its time stamps, in bytes. Those of a first
// segment are 8 longer.
const headers = 20 + 20 + 12

// gauge passes connections on to a broker, and has the kernel count what goes over
// them: it sees what the device sends, TLS and all, and is the other end of its wire.
type gauge struct {
	broker   string // host and port
	listener net.Listener
	work     sync.WaitGroup

	mu     sync.Mutex
	open   map[*net.TCPConn]bool // with mu
	closed int64                 // bytes of those that are closed; with mu
	opened int                   // with mu
}

func newGauge(ctx context.Context, broker string) (*gauge, error) {
	// Like nats-server's, its connections have no keep-alive of their own.
	listener, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("standing before the broker: %w", err)
	}
	g := &gauge{broker: broker, listener: listener, open: map[*net.TCPConn]bool{}}
	g.work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			g.work.Go(func() { g.serve(conn.(*net.TCPConn)) })
		}
	})
	return g, nil
}

// address that the device connects to.
func (g *gauge) address() string { return g.listener.Addr().String() }

func (g *gauge) stop() {
	_ = g.listener.Close() // nothing is lost with it
	g.cut()
	g.work.Wait()
}

func (g *gauge) serve(device *net.TCPConn) {
	upstream, err := net.Dial("tcp", g.broker)
	if err != nil {
		_ = device.Close()
		return
	}
	g.mu.Lock()
	g.open[device] = true
	g.opened++
	g.mu.Unlock()
	g.work.Go(func() {
		_, _ = io.Copy(upstream, device)
		_ = upstream.Close() // ends the other direction too
	})
	_, _ = io.Copy(device, upstream)
	g.close(device)
}

// close ends a connection, and keeps what went over it.
func (g *gauge) close(device *net.TCPConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[device] {
		n, _ := onWire(device) // the kernel knows it until it is closed
		g.closed += n
		delete(g.open, device)
	}
	_ = device.Close()
}

// cut ends all connections, as a broker does whose sessions are over.
func (g *gauge) cut() {
	g.mu.Lock()
	var all []*net.TCPConn
	for conn := range g.open {
		all = append(all, conn)
	}
	g.mu.Unlock()
	for _, conn := range all {
		g.close(conn)
	}
}

// bytes that have gone over all connections, both ways and with headers, and how many
// connections there were.
func (g *gauge) bytes() (total int64, connections int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	total = g.closed
	for conn := range g.open {
		n, err := onWire(conn)
		if err != nil {
			return 0, 0, err
		}
		total += n
	}
	return total, g.opened, nil
}

// onWire is what the kernel counted of a connection.
func onWire(conn *net.TCPConn) (total int64, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	var asked error
	err = raw.Control(func(fd uintptr) { info, asked = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err := errors.Join(err, asked); err != nil {
		return 0, fmt.Errorf("asking the kernel about a connection: %w", err)
	}
	segments := int64(info.Segs_in) + int64(info.Segs_out)
	return int64(info.Bytes_received) + int64(info.Bytes_sent) + segments*headers, nil
}
