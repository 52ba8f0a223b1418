package check_test

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nationtech/harmony-fleet/operator/check"
	"github.com/nationtech/harmony-fleet/smoke/broker"
	"github.com/nationtech/harmony-fleet/smoke/pki"
)

// TestRun: an installation whose parts work passes, and of one that does not it is
// told which part and why.
func TestRun(t *testing.T) {
	b, err := broker.Start(t.Context(), broker.Options{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	clear, err := broker.Start(t.Context(), broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(clear.Stop)
	address := func(url string) string { _, host, _ := strings.Cut(url, "://"); return host }
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(up.Close)
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	broken := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(broken.Close)
	empty := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := check.Installation{Operator: up.URL, Callout: up.URL, Broker: address(b.URL()), CAFile: b.NATS().CAFile}
	for name, c := range map[string]struct {
		change func(*testing.T, *check.Installation)
		want   string // in the error; "" for none
	}{
		"all works":                  {func(*testing.T, *check.Installation) {}, ""},
		"no callout and broker":      {func(_ *testing.T, i *check.Installation) { i.Callout, i.Broker = "", "" }, ""},
		"no operator is ready":       {func(_ *testing.T, i *check.Installation) { i.Operator = down.URL }, "the operator does not work: no pod of it is ready"},
		"something else answers":     {func(_ *testing.T, i *check.Installation) { i.Callout = broken.URL }, "the callout does not work: " + broken.URL + " answers 404"},
		"a broker in clear":          {func(_ *testing.T, i *check.Installation) { i.Broker = address(clear.URL()) }, "the broker does not work: "},
		"no broker":                  {func(_ *testing.T, i *check.Installation) { i.Broker = address(down.URL) }, "the broker does not work: "},
		"a certificate of others":    {func(t *testing.T, i *check.Installation) { i.CAFile = ownAuthority(t) }, "unknown authority"},
		"no authority":               {func(_ *testing.T, i *check.Installation) { i.CAFile = empty }, "holds no certificate in PEM"},
		"an authority that is not":   {func(_ *testing.T, i *check.Installation) { i.CAFile = empty + "x" }, "no such file"},
		"it speaks TLS and not NATS": {func(t *testing.T, i *check.Installation) { i.Broker, i.CAFile = web(t) }, "it is no NATS server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := good
			c.change(t, &i)
			var told []string
			i.Tell = func(text string) { told = append(told, text) }
			ctx := t.Context()
			if c.want != "" { // it would go on trying
				short, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				ctx = short
			}
			err := i.Run(ctx)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q; it told %q", err, c.want, told)
			}
		})
	}
}

// ownAuthority is the file of one that has signed nothing here.
func ownAuthority(t *testing.T) string {
	t.Helper()
	ca, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, ca.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// web is a server with a certificate in order that speaks HTTP, and its authority.
func web(t *testing.T) (address, caFile string) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	caFile = filepath.Join(t.TempDir(), "ca.crt")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(caFile, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	return server.Listener.Addr().String(), caFile
}
