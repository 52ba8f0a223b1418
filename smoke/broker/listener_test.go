package broker_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/smoke/broker"
)

// TestOneListener: the broker listens for clients and for nobody else: there is
// no port for WebSocket, MQTT, leaf nodes, routes, gateways or monitoring (A20).
func TestOneListener(t *testing.T) {
	b, err := broker.StartProcess(t.Context(), broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	var port int
	if _, err := fmt.Sscanf(b.URL(), "nats://127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("0100007F:%04X", port)
	if got := listeners(t, b.PID()); len(got) != 1 || got[0] != want {
		t.Errorf("listening on %v, want %s alone", got, want)
	}
}

// listeners are the addresses on which a process listens, as the kernel writes
// them.
func listeners(t *testing.T, pid int) (addresses []string) {
	t.Helper()
	sockets := map[string]bool{}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("the open files of process %d: %v, %v", pid, files, err)
	}
	for _, file := range files {
		if target, err := os.Readlink(file); err == nil {
			sockets[target] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) > 9 && fields[3] == "0A" && sockets["socket:["+fields[9]+"]"] { // 0A is LISTEN
				addresses = append(addresses, fields[1])
			}
		}
	}
	return addresses
}

// TestOtherProtocols speaks to the clients' port what other ports would take
// (A20): the broker hangs up.
func TestOtherProtocols(t *testing.T) {
	eachLogin(t, broker.Options{LoginTimeout: 4 * time.Second}, func(a *arena) {
		before := a.dump()
		for reason, sent := range map[string]string{
			"monitoring": "GET /connz?subs=1&auth=1 HTTP/1.1\r\nHost: x\r\n\r\n",
			"WebSocket":  "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
			"MQTT":       "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04pi-4",
			"leaf":       `CONNECT {"name":"leaf","cluster":"x","headers":true,"jetstream":true,"remote_account":"FLEET"}` + "\r\nLS+ >\r\n",
			"route":      `INFO {"server_id":"x","name":"x","cluster":"x"}` + "\r\n" + `CONNECT {"name":"x","cluster":"x"}` + "\r\nRS+ FLEET >\r\n",
			"gateway":    `CONNECT {"gateway":"x","name":"x"}` + "\r\n",
			"TLS":        clientHello(a.T),
		} {
			c := openRaw(a.T, a.broker.URL())
			c.send(sent)
			for _, f := range c.rest() {
				if !f.closed && f.err == "" || strings.Contains(f.content, them) {
					a.Errorf("%s: %+v", reason, f)
				}
			}
		}
		// The same of one who has logged in, and is a client.
		for reason, as := range map[string]map[string]any{
			"leaf":      {"cluster": "x", "remote_account": "FLEET", "jetstream": true},
			"gateway":   {"gateway": "x"},
			"account":   {"account": "FLEET", "new_account": true},
			"jwt":       {"jwt": "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.e30."},
			"two lives": {"auth_token": "x"},
		} {
			c := openRaw(a.T, a.broker.URL())
			c.login(func(nonce string) map[string]any {
				options := a.proofs[attacker](nonce)
				for key, value := range as {
					options[key] = value
				}
				return options
			}, pub(wanted, "", "evil")+"PUB "+wanted+" x\r\n")
			refused := false
			for _, f := range c.rest() {
				refused = refused || f.refuses("violation")
			}
			if !refused {
				a.Errorf("a login with %s is let in to write what it likes", reason)
			}
		}
		a.victimIsWell(before)
	})
}

// clientHello is what a TLS client says first.
func clientHello(t *testing.T) string {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_ = tls.Client(theirs, &tls.Config{ServerName: "localhost"}).Handshake() // ends with the pipe
		theirs.Close()
	}()
	reader := bufio.NewReader(ours)
	head, err := reader.Peek(5)
	if err != nil {
		t.Fatal(err)
	}
	hello := make([]byte, 5+int(head[3])<<8+int(head[4]))
	if _, err := reader.Read(hello[:5]); err != nil {
		t.Fatal(err)
	}
	for n := 5; n < len(hello); {
		m, err := reader.Read(hello[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if !bytes.HasPrefix(hello, []byte{22, 3}) {
		t.Fatalf("no hello: %x", hello[:5])
	}
	return string(hello)
}
