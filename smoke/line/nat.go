package line

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// nat knows the connections that were begun from inside, by the ports that they have
// there. There is one address on each side, and what is not TCP of IPv4 never passes.
type nat map[uint16]bool

const (
	// leastIP and leastTCP are how many bytes their headers have at least.
	leastIP, leastTCP = 20, 20
	// syn and ack are flags of TCP: the first packet of a connection has the one alone.
	syn, ack = 0x02, 0x10
)

// passes says whether a packet does, on its way out or back.
func (n nat) passes(packet []byte, out bool) bool {
	if len(packet) < leastIP || packet[0]>>4 != 4 || packet[9] != unix.IPPROTO_TCP {
		return false
	}
	header := int(packet[0]&0xf) * 4
	if header < leastIP || len(packet) < header+leastTCP {
		return false
	}
	tcp := packet[header:]
	if !out {
		return n[binary.BigEndian.Uint16(tcp[2:])]
	}
	port := binary.BigEndian.Uint16(tcp)
	if tcp[13]&(syn|ack) == syn {
		n[port] = true
	}
	return n[port]
}
