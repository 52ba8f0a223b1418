package line

import (
	"encoding/binary"
	"testing"
)

// packet is one of IPv4 and TCP, with options in the header of the first.
func packet(from, to uint16, flags byte) []byte {
	const header = leastIP + 4
	p := make([]byte, header+leastTCP)
	p[0], p[9] = 4<<4|header/4, 6
	binary.BigEndian.PutUint16(p[header:], from)
	binary.BigEndian.PutUint16(p[header+2:], to)
	p[header+13] = flags
	return p
}

func TestNAT(t *testing.T) {
	const client, another, server = 40_000, 40_001, 4222
	n := nat{}
	passes := func(what string, p []byte, out, want bool) {
		t.Helper()
		if n.passes(p, out) != want {
			t.Errorf("%s: passes is %t", what, !want)
		}
	}
	passes("one from outside begins", packet(server, client, syn), false, false)
	passes("one that nobody began goes on", packet(client, server, ack), true, false)
	passes("one that nobody began is answered from inside", packet(client, server, syn|ack), true, false)
	passes("one begins", packet(client, server, syn), true, true)
	passes("it is answered", packet(server, client, syn|ack), false, true)
	passes("it goes on", packet(client, server, ack), true, true)
	passes("another one is answered that nobody began", packet(server, another, syn|ack), false, false)
	clear(n)
	passes("a forgotten one goes on", packet(client, server, ack), true, false)
	passes("a forgotten one is answered", packet(server, client, ack), false, false)
	passes("another one begins", packet(another, server, syn), true, true)
	passes("it begins anew from the same port", packet(client, server, syn), true, true)
	passes("that is answered", packet(server, client, syn|ack), false, true)
}

// TestNATElse: what is no TCP of IPv4, or is cut short, passes never.
func TestNATElse(t *testing.T) {
	n := nat{0: true}
	whole := packet(0, 0, syn)
	for size := range whole {
		for _, out := range []bool{true, false} {
			if n.passes(whole[:size], out) {
				t.Errorf("%d bytes pass", size)
			}
		}
	}
	for what, change := range map[string]func([]byte){
		"IPv6": func(p []byte) { p[0] = 6<<4 | p[0]&0xf }, "a header that is too short": func(p []byte) { p[0] = 4<<4 | 4 },
		"one that is too long": func(p []byte) { p[0] = 4<<4 | 15 }, "UDP": func(p []byte) { p[9] = 17 },
	} {
		other := packet(0, 0, syn)
		change(other)
		if n.passes(other, true) {
			t.Errorf("%s passes", what)
		}
	}
}
