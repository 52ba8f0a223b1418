package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
)

// network is the address plan of a cluster: one range that the host routes to the
// node, so that pods, Services and the host reach each other without a rule in the
// host's firewall. Nothing else is reachable: pods have no way to other machines.
type network struct {
	number   int
	all      netip.Prefix
	host     netip.Addr // the API server's
	node     netip.Addr
	link     netip.Prefix // of host and node
	pods     netip.Prefix
	services netip.Prefix
	dns      netip.Addr // of the Service that resolves names
	owner    io.Closer  // while it is, nobody else takes this one
}

// numbers is how many clusters may exist on a host at once: ranges 10.64 to 10.127,
// which leaves the upper half to the podman services of package podman.
const numbers = 64

func newNetwork(number int) network {
	n := network{number: number}
	prefix := func(third byte, bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(64 + number), third, 0}), bits)
	}
	n.all, n.link, n.pods, n.services = prefix(0, 16), prefix(0, 24), prefix(1, 24), prefix(2, 24)
	n.host = n.link.Addr().Next()
	n.node = n.host.Next()
	n.dns = netip.AddrFrom4([4]byte{10, byte(64 + number), 2, 10})
	return n
}

// device is the host's end of the cable to the node.
func (n network) device() string { return fmt.Sprintf("fleet%d", n.number) }

// takeNetwork takes one that overlaps with no address of this host, and that nobody
// takes who comes up at the same time. It is given back by disconnect, or by the kernel
// when this process ends.
func takeNetwork() (network, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return network{}, fmt.Errorf("reading the host's addresses: %w", err)
	}
	for _, number := range rand.Perm(numbers) {
		n := newNetwork(number)
		if !n.free(addresses) {
			continue
		}
		if err := n.take(); err == nil {
			return n, nil
		} else if !errors.Is(err, syscall.EADDRINUSE) {
			return network{}, fmt.Errorf("taking a network: %w", err)
		}
	}
	return network{}, errors.New("the host has addresses or clusters in all of 10.64.0.0/10, one range of which a cluster needs")
}

// take is an error that is EADDRINUSE when somebody else has it.
func (n *network) take() error {
	// Such a name belongs to the host's network, as addresses do, and lies in no folder.
	owner, err := net.Listen("unix", "@harmony-fleet-"+n.device())
	if err == nil {
		n.owner = owner
	}
	return err
}

func (n network) free(addresses []net.Addr) bool {
	for _, address := range addresses {
		taken, err := netip.ParsePrefix(address.String())
		if err == nil && n.all.Overlaps(taken) {
			return false
		}
	}
	return true
}

// connect lays the cable between the host and the network namespace of a process,
// and routes the cluster's range to it. All of it ends with the namespace.
func (n network) connect(ctx context.Context, pid int) error {
	ip := func(args ...string) error { return run(ctx, "ip", args...) }
	there := func(args ...string) error {
		return run(ctx, "nsenter", append([]string{"--target", fmt.Sprint(pid), "--net", "ip"}, args...)...)
	}
	host := netip.PrefixFrom(n.host, n.link.Bits()).String()
	node := netip.PrefixFrom(n.node, n.link.Bits()).String()
	if err := ip("link", "add", n.device(), "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(pid)); err != nil {
		return err
	}
	return errors.Join(
		ip("address", "add", host, "dev", n.device()),
		ip("link", "set", n.device(), "up"),
		there("address", "add", node, "dev", "eth0"),
		there("link", "set", "eth0", "up"),
		ip("route", "add", n.all.String(), "via", n.node.String()),
		there("route", "add", "default", "via", n.host.String()),
	)
}

// disconnect removes the cable and gives the network back. The kernel does so too when
// the last process in the node's namespace has ended, but not at once.
func (n network) disconnect() error {
	if !n.all.IsValid() {
		return nil
	}
	err := patiently(func() error {
		if device, _ := net.InterfaceByName(n.device()); device == nil {
			return nil
		}
		return run(context.Background(), "ip", "link", "delete", n.device())
	})
	if err == nil {
		_ = n.owner.Close() // it may be given back already, when something else was not removed
	}
	return err
}
