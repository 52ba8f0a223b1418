// Package line is the network between a device and the broker where it is bad: a
// program in a network namespace has one way out, over which the connections to one
// address go, and that way can be cut, lose packets, be narrow or be long. Loss and
// rate are the kernel's; the length is that of a forwarder in this process, since not
// every kernel can delay packets. It changes nothing of the host's firewall, and the
// kernel takes all of it away when this process dies.
package line

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/debian"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// Line is the way to one address.
type Line struct {
	forwarder  *forwarder
	holder     *process.Process // of the namespace
	device     string           // the host's end
	host, peer netip.Addr
}

// Fault is what is wrong with a line, in each direction; the zero value is nothing.
type Fault struct {
	// Loss is the share of packets that are lost, from 0 to 1.
	Loss float64
	// Rate is how many bits it takes in a second; 0 means all.
	Rate int
	// Delay of what is said. Connections are taken at once.
	Delay time.Duration
}

// Lay lays a line to an address, a host's IP and a port. The folder is for a log.
// Whatever happens afterwards, Remove it.
func Lay(ctx context.Context, dir, to string, progress io.Writer) (_ *Line, err error) {
	target, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, fmt.Errorf("laying a line: %w", err)
	}
	needed := []debian.Program{debian.Iptables, {Package: "iproute2", Paths: []string{"/usr/sbin/tc", "/sbin/tc"}}}
	if err := debian.Install(ctx, "a bad network", needed, progress); err != nil {
		return nil, err
	}
	l := &Line{}
	defer func() {
		if err != nil {
			l.Remove()
			err = fmt.Errorf("laying a line to %s: %w", to, err)
		}
	}()
	// A /30 of the range for tests of networks, 198.18.0.0/15.
	number := rand.IntN(1 << 15)
	l.device = fmt.Sprintf("line%d", number)
	l.host = netip.AddrFrom4([4]byte{198, 18 + byte(number>>14), byte(number >> 6), byte(number<<2) + 1})
	l.peer = l.host.Next()
	l.holder, err = process.Start(process.Spec{Path: "sleep", Args: []string{"infinity"}, Log: filepath.Join(dir, "line.log"), Namespaces: syscall.CLONE_NEWNET})
	if err != nil {
		return nil, err
	}
	if err := l.connect(ctx); err != nil {
		return nil, err
	}
	if l.forwarder, err = forward(l.host.String(), to); err != nil {
		return nil, err
	}
	// Who is inside knows the address that it really talks to, and its certificate.
	return l, l.inside(ctx, fmt.Sprintf("iptables -t nat -A OUTPUT -p tcp -d %s --dport %d -j DNAT --to-destination %s", target.Addr(), target.Port(), l.forwarder.address()))
}

// connect lays the cable between the host and the namespace.
func (l *Line) connect(ctx context.Context) error {
	return errors.Join(
		run(ctx, fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d", l.device, l.holder.PID())),
		run(ctx, fmt.Sprintf("ip address add %s/30 dev %s", l.host, l.device)),
		run(ctx, fmt.Sprintf("ip link set %s up", l.device)),
		l.inside(ctx, fmt.Sprintf("ip address add %s/30 dev eth0", l.peer)),
		l.inside(ctx, "ip link set lo up"),
		l.inside(ctx, "ip link set eth0 up"),
		l.inside(ctx, fmt.Sprintf("ip route add default via %s", l.host)),
	)
}

// Inside is what goes before a command for it to have no other way out.
func (l *Line) Inside() []string {
	return []string{"nsenter", "--target=" + strconv.Itoa(l.holder.PID()), "--net", "--"}
}

// Cut takes the cable out: nothing gets through, and nobody is told.
func (l *Line) Cut(ctx context.Context) error {
	return run(ctx, fmt.Sprintf("ip link set %s down", l.device))
}

// Mend puts it back.
func (l *Line) Mend(ctx context.Context) error {
	return run(ctx, fmt.Sprintf("ip link set %s up", l.device))
}

// Break has the line have this fault and no other, and ends the connections that were
// begun without it.
func (l *Line) Break(ctx context.Context, f Fault) error {
	err := l.inside(ctx, "iptables -F")
	if f.Loss > 0 {
		for _, chain := range []string{"INPUT", "OUTPUT"} {
			err = errors.Join(err, l.inside(ctx, fmt.Sprintf("iptables -A %s -m statistic --mode random --probability %.2f -j DROP", chain, f.Loss)))
		}
	}
	err = errors.Join(err, l.narrow(ctx, f.Rate))
	l.forwarder.delay(f.Delay)
	l.forwarder.hangUp()
	return err
}

// narrow bounds the rate, at both ends.
func (l *Line) narrow(ctx context.Context, rate int) error {
	queue := "pfifo"
	if rate > 0 {
		queue = fmt.Sprintf("tbf rate %dbit burst 2000 limit 20000", rate)
	}
	return errors.Join(
		run(ctx, fmt.Sprintf("tc qdisc replace dev %s root %s", l.device, queue)),
		l.inside(ctx, "tc qdisc replace dev eth0 root "+queue),
	)
}

// Remove takes it away. It may be called more than once, and on nil.
func (l *Line) Remove() {
	if l == nil {
		return
	}
	if l.forwarder != nil {
		l.forwarder.stop()
	}
	if l.holder != nil {
		l.holder.Stop(0)
	}
	// The kernel does so too when the namespace has ended, but not at once.
	if device, _ := net.InterfaceByName(l.device); device != nil {
		_ = run(context.Background(), "ip link delete "+l.device)
	}
}

// inside runs a command in the namespace.
func (l *Line) inside(ctx context.Context, command string) error {
	return run(ctx, strings.Join(l.Inside(), " ")+" "+command)
}

// run runs a command, whose words are apart by spaces.
func run(ctx context.Context, command string) error {
	words := strings.Fields(command)
	if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, bytes.TrimSpace(out))
	}
	return nil
}
