package bus

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/pki"
)

// TestInTheMiddle (A27): who stands between a device and its broker hears nothing of
// the device's login, whatever certificate it shows, how old a TLS it speaks, or that
// it says there is none to be had. The control is one whose certificate is in order.
func TestInTheMiddle(t *testing.T) {
	f := newFleet(t, "pi-4")
	ours, theirs := newAuthority(t), newAuthority(t)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, ours.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	good := issue(t, ours, "127.0.0.1")
	for name, c := range map[string]struct {
		secure  *tls.Config // nil: it offers no TLS
		caFile  string      // of the device
		refused string
	}{
		"another authority": {secure: &tls.Config{Certificates: issue(t, theirs, "127.0.0.1")}, caFile: caFile, refused: "signed by nobody whom this device trusts"},
		"no authority":      {secure: &tls.Config{Certificates: good}, refused: "signed by nobody whom this device trusts"},
		"another host":      {secure: &tls.Config{Certificates: issue(t, ours, "127.0.0.2", "nats.example.com")}, caFile: caFile, refused: "is for another host"},
		// #nosec G402 -- what is to be refused
		"TLS 1.0": {secure: &tls.Config{Certificates: good, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, caFile: caFile, refused: "protocol version"},
		// #nosec G402 -- what is to be refused
		"TLS 1.1":                   {secure: &tls.Config{Certificates: good, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, caFile: caFile, refused: "protocol version"},
		"no TLS":                    {caFile: caFile, refused: "offers no TLS"},
		"no TLS, and no authority":  {refused: "offers no TLS"},
		"all in order (control)":    {secure: &tls.Config{Certificates: good}, caFile: caFile},
		"TLS 1.2 is good (control)": {secure: &tls.Config{Certificates: good, MaxVersion: tls.VersionTLS12}, caFile: caFile},
	} {
		t.Run(name, func(t *testing.T) {
			front, err := broker.NewFront(f.broker.URL(), c.secure)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(front.Close)
			to := f.options("pi-4").Target
			to.NATS = v1alpha1.NATSSection{URLs: []string{front.URL()}, CAFile: c.caFile}
			_, err = Probe(t.Context(), to)
			told := strings.Contains(front.Heard(), to.Credentials.Password)
			if c.refused == "" {
				if err != nil || !told {
					t.Errorf("connecting: %v; the login was heard: %t", err, told)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.refused) || errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("got %v, want %q", err, c.refused)
			}
			if heard := front.Heard(); strings.Contains(heard, "CONNECT") || told {
				t.Errorf("the device said %q", heard)
			}
		})
	}
}

// TestByName: a device whose URL is tls-first:// gets to its broker through a router
// that goes by the name in the handshake, which one that waits for the broker to
// speak first does not; and it says what is wrong where the broker begins in clear.
func TestByName(t *testing.T) {
	f := newFleet(t, "pi-4")
	b, err := broker.Start(t.Context(), broker.Options{Devices: []wire.DeviceID{"pi-4"}, TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	router, err := broker.NewRouter(map[string]string{"localhost": b.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(router.Close)
	front, err := broker.NewFront(f.broker.URL(), &tls.Config{Certificates: issue(t, newAuthority(t), "127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(front.Close)
	for name, c := range map[string]struct{ url, refused string }{
		"by name":                       {fmt.Sprintf("tls-first://localhost:%d", router.Port()), ""},
		"straight to the broker":        {strings.Replace(b.URL(), "tls:", "tls-first:", 1), ""},
		"in clear at first":             {fmt.Sprintf("tls://localhost:%d", router.Port()), "EOF"},
		"a broker that begins in clear": {strings.Replace(front.URL(), "tls:", "tls-first:", 1), "begins in clear; have it take handshake_first"},
	} {
		t.Run(name, func(t *testing.T) {
			to := f.options("pi-4").Target
			to.Credentials, to.NATS = b.Device("pi-4"), v1alpha1.NATSSection{URLs: []string{c.url}, CAFile: b.NATS().CAFile}
			_, err := Probe(t.Context(), to)
			if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
				t.Errorf("got %v, want %q", err, c.refused)
			}
		})
	}
}

func newAuthority(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *pki.Authority, hosts ...string) []tls.Certificate {
	t.Helper()
	pair, err := ca.Issue(pkix.Name{CommonName: "nats"}, hosts...)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{certificate}
}
