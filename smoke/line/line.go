// Package line is the network between a device and the broker where it is bad: a
// program in a network namespace has one way out, to one address, and this process
// carries its packets. They can be lost, wait for a narrow line, take long, be too
// large, or belong to a connection that a NAT has forgotten; nobody is told.
//
// The way ends in a second namespace, which has that address; the connections that
// arrive there go on from this host to the real one, as those at a load balancer do. So
// whoever is at either end of the line has a kernel of its own, with its timers, and
// knows the address and the certificate that it talks to.
//
// It carries TCP of IPv4 alone, changes nothing of the host's network, and the kernel
// takes all of it away when this process dies.
package line

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/debian"
)

// Line is the way to one address.
type Line struct {
	inside, beyond namespace
	ends           [2]*os.File // of the cable, in this order
	relay          *relay
	running        sync.WaitGroup
	removal        sync.Once
	removed        chan struct{}

	mu        sync.Mutex
	cut       bool // with mu, as what follows
	nat       nat
	out, back way
}

// Fault is what is wrong with a line, in each direction; the zero value is nothing.
type Fault struct {
	// Loss is the share of packets that are lost, from 0 to 1.
	Loss float64
	// Rate is how many bits it takes in a second; 0 means all.
	Rate int
	// Delay of each packet: an answer takes twice that.
	Delay time.Duration
	// MTU is how many bytes the packets have that get through at most; larger ones
	// vanish, as behind a firewall that drops what would be said of them. 0 means all.
	MTU int
}

const (
	// largest is how many bytes a packet has at most, which is what the kernel gives a
	// TUN device.
	largest = 1500
	// underWay is how many packets are on the line at most.
	underWay = 4096
)

// Lay lays a line to an address, an IP of another than this host's loopback and a port.
// Whatever happens afterwards, Remove it.
func Lay(ctx context.Context, to string, progress io.Writer) (_ *Line, err error) {
	target, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, fmt.Errorf("laying a line: %w", err)
	}
	needed := []debian.Program{{Package: "iproute2", Paths: []string{"/usr/sbin/ip", "/sbin/ip", "/bin/ip"}}}
	if err := debian.Install(ctx, "a bad network", needed, progress); err != nil {
		return nil, err
	}
	l := &Line{removed: make(chan struct{}), nat: nat{}, out: way{chance: rand.Float64}, back: way{chance: rand.Float64}}
	if err := l.lay(ctx, target); err != nil {
		l.Remove()
		return nil, fmt.Errorf("laying a line to %s: %w", to, err)
	}
	return l, nil
}

func (l *Line) lay(ctx context.Context, target netip.AddrPort) (err error) {
	if l.inside, err = newNamespace(); err != nil {
		return err
	}
	if l.beyond, err = newNamespace(); err != nil {
		return err
	}
	// Of the range for tests of networks. Each line has it, in namespaces of its own.
	own := netip.MustParseAddr("198.18.0.1")
	if l.ends[0], err = l.inside.plug(ctx, own, target.Addr()); err != nil {
		return err
	}
	if l.ends[1], err = l.beyond.plug(ctx, target.Addr(), own); err != nil {
		return err
	}
	l.running.Go(func() { l.carry(l.ends[0], l.ends[1], &l.out) })
	l.running.Go(func() { l.carry(l.ends[1], l.ends[0], &l.back) })
	return l.beyond.within(func() error {
		listener, err := net.Listen("tcp", target.String())
		if err == nil {
			l.relay = newRelay(listener, target.String())
		}
		return err
	})
}

// carry takes packets from one end to the other until the line is removed.
func (l *Line) carry(from, to *os.File, w *way) {
	type parcel struct {
		packet []byte
		due    time.Time
	}
	line := make(chan parcel, underWay)
	defer close(line)
	l.running.Go(func() {
		for p := range line {
			select {
			case <-time.After(time.Until(p.due)):
				_, _ = to.Write(p.packet) // its kernel may have no more room
			case <-l.removed:
				return
			}
		}
	})
	buffer := make([]byte, largest)
	for {
		size, err := from.Read(buffer)
		if err != nil {
			return // it is removed
		}
		due, taken := l.take(buffer[:size], w)
		if !taken {
			continue
		}
		select {
		case line <- parcel{bytes.Clone(buffer[:size]), due}:
		default: // there is no more room
		}
	}
}

// take says when a packet arrives, if it does.
func (l *Line) take(packet []byte, w *way) (due time.Time, taken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut || !l.nat.passes(packet, w == &l.out) {
		return time.Time{}, false
	}
	return w.take(len(packet), time.Now())
}

// Inside is what goes before a command for it to have no other way out.
func (l *Line) Inside() []string { return []string{"nsenter", "--net=" + l.inside.path(), "--"} }

// Cut takes the cable out: nothing gets through, and nobody is told.
func (l *Line) Cut() { l.plugged(false) }

// Mend puts it back.
func (l *Line) Mend() { l.plugged(true) }

func (l *Line) plugged(in bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = !in
}

// Break has the line have this fault and no other.
func (l *Line) Break(f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.fault, l.back.fault = f, f
}

// Forget does what a NAT does that was restarted, or heard nothing for too long: what
// belongs to connections that there are vanishes, in both directions. New ones work.
func (l *Line) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.nat)
}

// HangUp ends all connections at the other end, as a load balancer does that is
// restarted. This is told over the line.
func (l *Line) HangUp() { l.relay.hangUp() }

// Remove takes it away. It may be called more than once, and on nil.
func (l *Line) Remove() {
	if l != nil {
		l.removal.Do(l.remove)
	}
}

func (l *Line) remove() {
	close(l.removed)
	if l.relay != nil {
		l.relay.stop()
	}
	for _, file := range []*os.File{l.ends[0], l.ends[1], l.inside.file, l.beyond.file} {
		if file != nil {
			_ = file.Close()
		}
	}
	l.running.Wait()
}
