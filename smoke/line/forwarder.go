package line

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// forwarder takes connections and leads them to one address, with a delay.
type forwarder struct {
	listener net.Listener
	to       string
	late     atomic.Int64 // as a time.Duration
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // with mu; nil once it is stopped
}

// forward begins to, on a free port of this host's address.
func forward(host, to string) (*forwarder, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, fmt.Errorf("listening for connections: %w", err)
	}
	f := &forwarder{listener: listener, to: to, conns: map[net.Conn]bool{}}
	f.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it is stopped
			}
			f.running.Go(func() { f.lead(conn) })
		}
	})
	return f, nil
}

func (f *forwarder) address() string { return f.listener.Addr().String() }

// delay holds for what is said from now on.
func (f *forwarder) delay(d time.Duration) { f.late.Store(int64(d)) }

// hangUp ends all connections.
func (f *forwarder) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.conns {
		_ = conn.Close() // who reads from it hears of it
	}
}

func (f *forwarder) stop() {
	_ = f.listener.Close()
	f.mu.Lock()
	for conn := range f.conns {
		_ = conn.Close()
	}
	f.conns = nil
	f.mu.Unlock()
	f.running.Wait()
}

// lead leads one connection until either side ends it.
func (f *forwarder) lead(one net.Conn) {
	other, err := net.Dial("tcp", f.to)
	if err != nil {
		_ = one.Close()
		return
	}
	if !f.keep(one, other) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { f.carry(one, other) })
	both.Go(func() { f.carry(other, one) })
	both.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, one)
	delete(f.conns, other)
}

// keep remembers two ends, to hang up; it does so at once when it is stopped.
func (f *forwarder) keep(ends ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, end := range ends {
		if f.conns == nil {
			_ = end.Close()
		} else {
			f.conns[end] = true
		}
	}
	return f.conns != nil
}

// said is what one side said, and when the other hears it.
type said struct {
	what []byte
	due  time.Time
}

// carry carries what one end says to the other, and ends both when either is over.
func (f *forwarder) carry(from, to net.Conn) {
	under := make(chan said, 1024)
	f.running.Go(func() {
		for s := range under {
			time.Sleep(time.Until(s.due))
			if _, err := to.Write(s.what); err != nil {
				break
			}
		}
		_, _ = to.Close(), from.Close()
		for range under { //nolint:revive // what is said to nobody
		}
	})
	defer close(under)
	for {
		buffer := make([]byte, 16<<10)
		n, err := from.Read(buffer)
		if n > 0 {
			under <- said{buffer[:n], time.Now().Add(time.Duration(f.late.Load()))}
		}
		if err != nil {
			return
		}
	}
}
