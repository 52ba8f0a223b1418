package bus

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

func TestExplain(t *testing.T) {
	to := Target{
		Device: "pi-4", NATS: v1alpha1.NATSSection{URLs: []string{"tls://nats.example.com:4222"}},
		Credentials: v1alpha1.Credentials{User: "pi"},
	}
	cases := map[string]struct {
		reason string
		err    error
		want   string
	}{
		"Login":      {"who was refused, and where to look", nats.ErrAuthorization, `refused the login of user "pi": wrong user or password; check [credentials]`},
		"Session":    {"a broker that ends every session at once", nats.ErrAuthExpired, "check the clocks of the broker"},
		"Refused":    {"no listener", nats.ErrNoServers, "nothing listens at tls://nats.example.com:4222"},
		"DNS":        {"a name that does not resolve", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "nats.example.com"}}, "cannot be resolved"},
		"Time-out":   {"packets that vanish", &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, "does not answer; check the network"},
		"Clock":      {"a device that believes it is 1970", fmt.Errorf("%w: %w", nats.ErrTLS, &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}), "check the device's clock"},
		"Host":       {"a certificate for another name", x509.HostnameError{Certificate: &x509.Certificate{}, Host: "nats"}, "is for another host"},
		"Permission": {"let in and refused", nats.ErrPermissionViolation, `must be those of device "pi-4"`},
		"Other":      {"what is not known is passed on", errors.New("maximum connections exceeded"), "broker at tls://nats.example.com:4222: maximum connections exceeded"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := explain(to, tc.err)
			if !strings.Contains(got.Error(), tc.want) {
				t.Errorf("%s\nexplain(): %q lacks %q", tc.reason, got, tc.want)
			}
			if !errors.Is(got, tc.err) {
				t.Errorf("%s\nexplain() hides the cause", tc.reason)
			}
		})
	}
}

// TestExplainLogin: who was refused, and where to look, depends on what was shown.
func TestExplainLogin(t *testing.T) {
	for kind, want := range map[v1alpha1.CredentialType]string{
		v1alpha1.CredentialPassword:          `user "pi": wrong user or password`,
		v1alpha1.CredentialNKey:              `device "pi-4" by its key: nobody let that key in`,
		v1alpha1.CredentialZitadelJWT:        `device "pi-4" by a token of https://sso.example.com`,
		v1alpha1.CredentialClientCredentials: "fleet-callout logs the reason",
	} {
		to := Target{Device: "pi-4", Credentials: v1alpha1.Credentials{Type: kind, User: "pi", Issuer: "https://sso.example.com"}}
		if got := explain(to, nats.ErrAuthorization); !strings.Contains(got.Error(), want) {
			t.Errorf("%s: %q lacks %q", kind, got, want)
		}
	}
}

// TestRenewal: an end that was meant is no failure, and a session that is over as
// soon as it begins is one.
func TestRenewal(t *testing.T) {
	expired := newEnding()
	expired.hear(nats.ErrAuthExpired)
	expired.closed(io.EOF) // what the broker does next
	lost := newEnding()
	lost.hear(nats.ErrSlowConsumer)
	lost.closed(io.EOF)
	renewed := newEnding()
	renewed.closed(errRenewed)
	renewed.closed(io.EOF) // too late
	for name, c := range map[string]struct {
		end    *ending
		lasted time.Duration
		want   string
	}{
		"a fresher token":     {renewed, 0, "the token was renewed"},
		"the session's end":   {expired, time.Minute, "the broker's session was over"},
		"no session at all":   {expired, time.Millisecond, ""},
		"a broken connection": {lost, time.Hour, ""},
	} {
		err := <-c.end.reason
		c.end.reason <- err
		if got := renewal(explain(Target{}, fmt.Errorf("connection lost: %w", err)), c.lasted); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestTLS speaks just as much of a broker's side as a handshake needs.
func TestTLS(t *testing.T) {
	certificates := httptest.NewTLSServer(nil)
	certificates.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("INFO {\"server_id\":\"x\",\"version\":\"2.15.2\",\"headers\":true,\"max_payload\":1048576,\"tls_required\":true}\r\n"))
			secure := tls.Server(conn, &tls.Config{Certificates: certificates.TLS.Certificates})
			for lines := bufio.NewScanner(secure); lines.Scan(); {
				if lines.Text() == "PING" {
					_, _ = secure.Write([]byte("-ERR 'Authorization Violation'\r\n"))
				}
			}
			_ = conn.Close()
		}
	}()
	to := Target{
		Device: "pi-4", NATS: v1alpha1.NATSSection{URLs: []string{"tls://" + listener.Addr().String()}},
		Credentials: v1alpha1.Credentials{User: "pi-4", Password: "secret"},
	}
	if _, err := Probe(t.Context(), to); err == nil || !strings.Contains(err.Error(), "set [nats] ca_file") {
		t.Errorf("a certificate that nobody signed: %v", err)
	}
	to.NATS.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if _, err := Probe(t.Context(), to); err == nil || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("a ca_file that is missing: %v", err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificates.Certificate().Raw})
	if err := os.WriteFile(to.NATS.CAFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Probe(t.Context(), to); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("with the certificate trusted, the login is what fails: %v", err)
	}
}
