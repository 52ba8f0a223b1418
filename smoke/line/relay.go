package line

import (
	"io"
	"net"
	"sync"
)

// relay takes connections and leads them to an address, as a load balancer does.
type relay struct {
	listener net.Listener
	to       string
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // with mu; nil once it is stopped
}

// newRelay begins to take what the listener hears.
func newRelay(listener net.Listener, to string) *relay {
	r := &relay{listener: listener, to: to, conns: map[net.Conn]bool{}}
	r.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it is stopped
			}
			r.running.Go(func() { r.lead(conn) })
		}
	})
	return r
}

// lead leads one connection until either side ends it.
func (r *relay) lead(one net.Conn) {
	other, err := net.Dial("tcp", r.to)
	if err != nil {
		_ = one.Close()
		return
	}
	defer r.forget(one, other)
	if !r.keep(one, other) {
		return
	}
	var both sync.WaitGroup
	carry := func(from, to net.Conn) {
		_, _ = io.Copy(to, from) // how it ended is for the two sides to say
		_, _ = from.Close(), to.Close()
	}
	both.Go(func() { carry(one, other) })
	both.Go(func() { carry(other, one) })
	both.Wait()
}

// keep remembers two ends, to hang up; it is false once the relay is stopped.
func (r *relay) keep(ends ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, end := range ends {
		if r.conns != nil {
			r.conns[end] = true
		}
	}
	return r.conns != nil
}

func (r *relay) forget(ends ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, end := range ends {
		_ = end.Close()
		delete(r.conns, end)
	}
}

// hangUp ends all connections.
func (r *relay) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.conns {
		_ = conn.Close() // who reads from it hears of it
	}
}

func (r *relay) stop() {
	_ = r.listener.Close()
	r.hangUp()
	r.mu.Lock()
	r.conns = nil
	r.mu.Unlock()
	r.running.Wait()
}
