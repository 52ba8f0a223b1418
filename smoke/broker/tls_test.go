package broker_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/pki"
	"github.com/nationtech/harmony-fleet/smoke/process"
)

// channel is how somebody speaks to a broker: nil for in clear.
type channel = *tls.Config

// old speaks no version of TLS but that one.
func old(version uint16) channel {
	// #nosec G402 -- what is to be refused
	return &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}
}

// tlsAttacks are tried (A27) with the login of a device that may write what it
// writes: only how it speaks is wrong.
var tlsAttacks = map[string]channel{
	"in clear": nil,
	"TLS 1.0":  old(tls.VersionTLS10),
	"TLS 1.1":  old(tls.VersionTLS11),
}

// speak logs in on a channel, writes the device's info, and tells whether the
// broker took it.
func speak(t *testing.T, url string, as v1alpha1.Credentials, over channel) bool {
	t.Helper()
	_, address, _ := strings.Cut(url, "://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	plain := bufio.NewReader(conn)
	if _, err := plain.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	var stream io.ReadWriter = struct {
		io.Reader
		io.Writer
	}{plain, conn}
	if over != nil {
		stream = tls.Client(conn, over)
	}
	login := fmt.Sprintf("CONNECT {\"user\":%q,\"pass\":%q,\"headers\":true}\r\n", as.User, as.Password)
	if _, err := io.WriteString(stream, login+pub(wire.DeviceInfos.Subject(as.User), "", "evil")+"PING\r\n"); err != nil {
		return false
	}
	for lines := bufio.NewScanner(stream); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "PONG") {
			return true
		}
	}
	return false
}

// TestTLSAttacks: nobody speaks to the broker in clear, or by a TLS that is broken,
// and it is told: the broker counts such a connection as one that failed. Its log has
// those that speak TLS; who speaks in clear it takes for a probe of a load balancer,
// which the log has at debug alone.
func TestTLSAttacks(t *testing.T) {
	port, err := process.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, broker.Options{Devices: []wire.DeviceID{attacker}, TLS: true, MonitorPort: port})
	failed := func() int {
		return strings.Count(fetch(t, fmt.Sprintf("http://127.0.0.1:%d/connz?state=closed", port)), "TLS Handshake Failure")
	}
	for name, over := range tlsAttacks {
		t.Run(name, func(t *testing.T) {
			before := failed()
			if speak(t, b.URL(), b.Device(attacker), over) {
				t.Error("the broker answers")
			}
			for end := time.Now().Add(patience); failed() != before+1; time.Sleep(2 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d handshakes have failed, %d before", failed(), before)
				}
			}
		})
	}
	if n := stored(t, b, wire.DeviceInfos); n != 0 {
		t.Errorf("%d messages are stored", n)
	}
	log, err := os.ReadFile(filepath.Join(b.Dir(), "broker.log"))
	if err != nil || strings.Count(string(log), "TLS handshake error") != 2 {
		t.Errorf("what is logged: %v, %s", err, log)
	}

	// A device that knows the broker by its address sends no name, and one that
	// asks for another name gets the same certificate: to refuse it is the
	// device's part.
	authority := x509.NewCertPool()
	text, err := os.ReadFile(b.NATS().CAFile)
	if err != nil || !authority.AppendCertsFromPEM(text) {
		t.Fatalf("reading the authority: %v", err)
	}
	for name, want := range map[string]bool{"127.0.0.1": true, "nats.example.com": false} {
		if got := speak(t, b.URL(), b.Device(attacker), &tls.Config{RootCAs: authority, ServerName: name}); got != want {
			t.Errorf("as %s: the broker answers = %t", name, got)
		}
	}
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestTLSAttacksBite is the control: where such a channel is offered, the same
// attacker gets in by it.
func TestTLSAttacksBite(t *testing.T) {
	b := start(t, broker.Options{Devices: []wire.DeviceID{attacker}})
	ca, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pkix.Name{CommonName: "front"}, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	// #nosec G402 -- what it is for
	front, err := broker.NewFront(b.URL(), &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(front.Close)
	for name, over := range tlsAttacks {
		url := front.URL()
		if over == nil {
			url = b.URL()
		}
		if !speak(t, url, b.Device(attacker), over) {
			t.Errorf("%s: it is refused where it is offered", name)
		}
	}
	if n := stored(t, b, wire.DeviceInfos); n != 1 {
		t.Errorf("%d messages are stored, want one", n)
	}
}
