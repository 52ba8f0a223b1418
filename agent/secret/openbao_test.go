package secret

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/agent/reconcile"
	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tokens is a provider that gives out one token, or fails.
type tokens struct{ err error }

func (t tokens) Token(context.Context) (string, error) { return "t0k3n", t.err }

const (
	loginOK = `{"auth":{"client_token":"c0de","lease_duration":900}}`
	dataOK  = `{"data":{"data":{"password":"s3cr3t"},"metadata":{"version":3,"created_time":"2026-11-25T04:46:42.5Z"}}}`
)

// odd is a server that gives answers which no OpenBao gives to be taken: each a
// status and a body.
type odd struct {
	login, data [2]any
	logins      int
}

// ServeHTTP implements http.Handler.
func (o *odd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := o.data
	if strings.HasSuffix(r.URL.Path, "/login") {
		o.logins++
		answer = o.login
	}
	w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
	w.WriteHeader(answer[0].(int))
	_, _ = fmt.Fprint(w, answer[1]) // a client that is gone is not the test's concern
}

func readerOf(t *testing.T, o *odd, from Tokens) *reader {
	t.Helper()
	server := httptest.NewServer(o)
	t.Cleanup(server.Close)
	r := &reader{tokens: from, config: v1alpha1.SecretsSection{Address: server.URL, Mount: "fleet", LoginMount: "jwt", LoginRole: "fleet-device"}}
	t.Cleanup(r.close)
	return r
}

// Whatever is answered, what is told of it has a name for it and nothing that a
// server may have put there.
func TestAnswers(t *testing.T) {
	const leak = `{"errors":["the value s3cr3t of t0k3n is not for c0de"]}`
	ok := [2]any{200, loginOK}
	for name, c := range map[string]struct {
		login, data [2]any
		refused     string // part of the answer's refusal
		missing     bool
		problem     string // part of the error
	}{
		"well":           {ok, [2]any{200, dataOK}, "", false, ""},
		"forbidden":      {ok, [2]any{403, leak}, "does not let this device read it", false, ""},
		"no secret":      {ok, [2]any{404, `{"errors":[]}`}, "", true, ""},
		"deleted":        {ok, [2]any{404, `{"data":{"data":null,"metadata":{"version":3,"created_time":"2026-11-25T04:46:42.5Z","deletion_time":"2026-11-25T05:00:00Z"}}}`}, "", true, ""},
		"no engine":      {ok, [2]any{400, leak}, "status 400", false, ""},
		"too often":      {ok, [2]any{429, leak}, "", false, "status 429"},
		"broken":         {ok, [2]any{500, leak}, "", false, "status 500"},
		"sealed":         {ok, [2]any{503, leak}, "", false, "status 503"},
		"no JSON":        {ok, [2]any{200, "<html>s3cr3t</html>"}, "", false, "cannot be read"},
		"other JSON":     {ok, [2]any{200, `{"data":{"data":"s3cr3t"}}`}, "", false, "cannot be read"},
		"no version":     {ok, [2]any{200, `{"data":{"data":{"password":"s3cr3t"}}}`}, "", false, "cannot be read"},
		"redirected":     {ok, [2]any{307, leak}, "", false, "cannot be reached"},
		"unknown role":   {[2]any{400, `{"errors":["role not found for t0k3n"]}`}, ok, `login as role "fleet-device"`, false, ""},
		"no login":       {[2]any{403, "<html>"}, ok, `login as role "fleet-device"`, false, ""},
		"login is no":    {[2]any{200, `{}`}, ok, "", false, "cannot be read"},
		"login is HTML":  {[2]any{200, "<html>"}, ok, "", false, "cannot be read"},
		"login is ill":   {[2]any{502, leak}, ok, "", false, "status 502"},
		"login is spent": {[2]any{429, leak}, ok, "", false, "status 429"},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := readerOf(t, &odd{login: c.login, data: c.data}, tokens{}).read(t.Context(), db)
			text := a.refused
			if err != nil {
				text += err.Error()
			}
			if (err != nil) != (c.problem != "") || (a.refused != "") != (c.refused != "") || a.missing != c.missing || !strings.Contains(text, c.refused+c.problem) {
				t.Errorf("answer %+v, error %v", a, err)
			}
			for _, word := range []string{"s3cr3t", "t0k3n", "c0de"} {
				if strings.Contains(text, word) {
					t.Errorf("%q is repeated: %s", word, text)
				}
			}
			well := a.values["password"] == "s3cr3t" && a.version == reconcile.SecretVersion("3 2026-11-25T04:46:42.5Z")
			if well != (c.refused+c.problem == "" && !c.missing) {
				t.Errorf("the value is %v in version %q", a.values, a.version)
			}
		})
	}
}

func TestLoginIsKept(t *testing.T) {
	o := &odd{login: [2]any{200, loginOK}, data: [2]any{200, dataOK}}
	r := readerOf(t, o, tokens{})
	read := func(logins int) {
		t.Helper()
		if _, err := r.read(t.Context(), db); err != nil || o.logins != logins {
			t.Errorf("%v after %d logins, want %d", err, o.logins, logins)
		}
	}
	read(1)
	read(1)
	r.renewAt = time.Now() // two thirds of its life are over
	read(2)
	o.data = [2]any{403, "{}"}
	read(2) // it is new: a refusal is one
	r.since = r.since.Add(-time.Hour)
	read(3) // it is old: it may be that which is refused
	if life := r.renewAt.Sub(r.since); life != 10*time.Minute {
		t.Errorf("a login for 15 min is good for %s", life)
	}
}

func TestNoAnswer(t *testing.T) {
	o := &odd{login: [2]any{200, loginOK}, data: [2]any{200, dataOK}}
	_, err := readerOf(t, o, tokens{errors.New("the provider is down")}).read(t.Context(), db)
	if err == nil || err.Error() != "getting a token for OpenBao: the provider is down" {
		t.Errorf("without a token: %v", err)
	}
	r := readerOf(t, o, tokens{})
	r.config.CAFile = "/nonexistent/ca.pem"
	if _, err := r.read(t.Context(), db); err == nil || !strings.Contains(err.Error(), "[openbao] ca_file") {
		t.Errorf("without the certificates: %v", err)
	}
	r = readerOf(t, o, tokens{})
	r.config.Address = "http://127.0.0.1:1"
	if _, err := r.read(t.Context(), db); err == nil || !strings.Contains(err.Error(), "OpenBao at http://127.0.0.1:1 cannot be reached; check [openbao] address") {
		t.Errorf("nobody listens: %v", err)
	}
	// Nothing of the environment counts.
	t.Setenv("BAO_ADDR", "http://127.0.0.1:1")
	t.Setenv("BAO_NAMESPACE", "other")
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	if _, err := readerOf(t, o, tokens{}).read(t.Context(), db); err != nil {
		t.Errorf("with an environment: %v", err)
	}
}
