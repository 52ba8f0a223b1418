package token

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// device is a device with credentials of a provider.
type device struct {
	*testing.T
	provider *oidc.Provider
	machine  oidc.Credentials
	options  Options

	mu  sync.Mutex
	log strings.Builder
}

func newDevice(t *testing.T, options oidc.Options) *device {
	t.Helper()
	p, err := oidc.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	d := &device{T: t, provider: p}
	d.machine = d.add("device-pi-4")
	d.options = Options{
		Now: time.Now,
		Log: funcr.New(func(_, args string) {
			d.mu.Lock()
			defer d.mu.Unlock()
			fmt.Fprintln(&d.log, args)
		}, funcr.Options{}),
		Credentials: v1alpha1.Credentials{
			Type: v1alpha1.CredentialZitadelJWT, Issuer: p.Issuer(), Audience: p.ProjectID(),
			KeyFile: d.file(d.machine.KeyJSON),
		},
	}
	return d
}

func (d *device) add(name string) oidc.Credentials {
	d.Helper()
	c, err := d.provider.AddMachine(oidc.Machine{Name: name, Roles: []string{"device"}, RoleClaims: oidc.ProjectRoleMap})
	d.must(err)
	return c
}

func (d *device) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func (d *device) file(content []byte) string {
	d.Helper()
	path := filepath.Join(d.TempDir(), "file")
	d.must(os.WriteFile(path, content, 0o600))
	return path
}

// secret has the device log in by a secret.
func (d *device) secret() {
	d.Helper()
	d.options.Credentials = v1alpha1.Credentials{
		Type: v1alpha1.CredentialClientCredentials, Issuer: d.provider.Issuer(), Audience: d.provider.ProjectID(),
		ClientID: d.machine.ClientID, ClientSecretFile: d.file([]byte(d.machine.ClientSecret + "\n")),
	}
}

// source is one with valid credentials.
func (d *device) source() *Source {
	d.Helper()
	d.must(d.options.Credentials.Validate())
	return New(d.options)
}

func (d *device) token(s *Source) string {
	d.Helper()
	token, err := s.Token(d.Context())
	d.must(err)
	return token
}

func (d *device) logged(words string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Count(d.log.String(), words)
}

// renewed waits for a fresher token.
func (d *device) renewed(s *Source, than string) string {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), time.Minute)
	defer cancel()
	if !s.Renewed(ctx, than) {
		d.Fatalf("no fresher token in a minute; logged:\n%s", d.log.String())
	}
	return d.token(s)
}

func claims(t *testing.T, token string) (all struct {
	Aud      []string
	ClientID string         `json:"client_id"`
	Roles    map[string]any `json:"-"`
}) {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err == nil {
		err = json.Unmarshal(payload, &all)
	}
	if err == nil {
		var roles map[string]any
		err = json.Unmarshal(payload, &roles)
		all.Roles, _ = roles["urn:zitadel:iam:org:project:"+all.Aud[0]+":roles"].(map[string]any)
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestToken: a token is the device's, for the audience and with its roles, and is
// asked for once.
func TestToken(t *testing.T) {
	for name, change := range map[string]func(*device){
		"key":    func(*device) {},
		"secret": (*device).secret,
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, oidc.Options{})
			change(d)
			s := d.source()
			token := d.token(s)
			got := claims(t, token)
			if got.ClientID != "device-pi-4" || got.Aud[0] != d.provider.ProjectID() || got.Roles["device"] == nil {
				t.Errorf("claims: %+v", got)
			}
			if again := d.token(s); again != token || d.provider.Requests().Token != 1 {
				t.Errorf("another token without need, %d requests", d.provider.Requests().Token)
			}
			if life := time.Until(s.held.expires); life > 12*time.Hour || life < 11*time.Hour {
				t.Errorf("the token is held to be good for %s", life)
			}
			if share := s.held.renew.Sub(s.held.got).Hours() / 12; share < 0.59 || share > 0.81 {
				t.Errorf("renewed after %.2f of its life", share)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if s.Renewed(ended, token) {
				t.Error("renewed before its time")
			}
			if !s.Renewed(t.Context(), "an older one") {
				t.Error("a fresher one is there")
			}
		})
	}
}

// TestOutage: tokens are renewed before they expire; while the provider is down
// the last one is handed out, and there is a fresh one soon after it is back.
func TestOutage(t *testing.T) {
	d := newDevice(t, oidc.Options{TokenLifetime: 4 * time.Second})
	s := d.source()
	first := d.token(s)
	second := d.renewed(s, first)
	if first == second {
		t.Error("not renewed")
	}
	d.provider.Stop()
	time.Sleep(time.Until(s.held.expires))
	for range 3 {
		if got := d.token(s); got != second {
			t.Error("the last token is not handed out in an outage")
		}
	}
	if n := d.logged("going on with the last one"); n != 1 {
		t.Errorf("the outage was logged %d times", n)
	}
	d.must(d.provider.Restart(t.Context()))
	if third := d.renewed(s, second); third == second {
		t.Error("no fresh token after the outage")
	}
	if n := d.logged("gives out tokens again"); n != 1 {
		t.Errorf("the end of the outage was logged %d times", n)
	}
	for _, secret := range []string{first, second} {
		if d.logged(secret) > 0 {
			t.Error("a token is in the log")
		}
	}
}

// TestNeverReached: without a token there is nothing to hand out.
func TestNeverReached(t *testing.T) {
	d := newDevice(t, oidc.Options{})
	d.provider.Stop()
	s := d.source()
	if _, err := s.Token(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be reached; check [credentials] issuer") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
	d.must(d.provider.Restart(t.Context()))
	if _, err := s.Token(t.Context()); err == nil {
		t.Error("asked again at once")
	}
	s.ended = s.ended.Add(-2 * pause)
	d.token(s)
}

// TestSilence: a provider that takes a question and never answers is one that is
// down.
func TestSilence(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(silent.Close)
	d := newDevice(t, oidc.Options{})
	s := d.source()
	token := d.token(s)
	s.options.Credentials.Issuer = silent.URL
	s.held.expires, s.ended = time.Now(), time.Time{}
	if d.token(s) != token || d.logged("does not answer; check the network") != 1 {
		t.Errorf("the last token is not handed out; logged:\n%s", d.log.String())
	}
}

// TestRefusedByProvider: the error says what is wrong, and the token that is good
// still is handed out until it expires.
func TestRefusedByProvider(t *testing.T) {
	d := newDevice(t, oidc.Options{})
	s := d.source()
	token := d.token(s)
	d.provider.RemoveMachine("device-pi-4")
	s.held.renew, s.ended = time.Now(), time.Time{}
	if got := d.token(s); got != token || d.logged("refused the key in [credentials] key_file") != 1 {
		t.Errorf("the token is good still; logged:\n%s", d.log.String())
	}
	s.held.expires, s.ended = time.Now(), time.Time{}
	if _, err := s.Token(t.Context()); err == nil || !strings.Contains(err.Error(), "refused the key") {
		t.Errorf("the token has expired: %v", err)
	}
}

// TestRefusedByBroker: a token that the broker refuses is replaced, and less often
// when that does not help.
func TestRefusedByBroker(t *testing.T) {
	d := newDevice(t, oidc.Options{})
	s := d.source()
	first := d.token(s)
	s.Refused(first)
	if d.token(s) != first {
		t.Error("a token that was just issued is not at fault")
	}
	age := func(by time.Duration) { s.held.got, s.ended = s.held.got.Add(-by), s.ended.Add(-by) }
	age(2 * pause)
	second := d.token(s)
	if second == first {
		t.Error("not replaced")
	}
	for range 4 {
		s.Refused(second)
	}
	age(2 * pause)
	if d.token(s) != second {
		t.Error("replaced too often")
	}
	age(doubtMost)
	if d.token(s) == second {
		t.Error("replaced no more")
	}
	s.Refused(second) // an old one says nothing of the new one
	if s.doubted {
		t.Error("doubts the new token")
	}
}

// TestRenewedKey: a key that is replaced on the disk counts.
func TestRenewedKey(t *testing.T) {
	d := newDevice(t, oidc.Options{})
	s := d.source()
	d.token(s)
	d.must(os.WriteFile(d.options.Credentials.KeyFile, d.add("device-pi-5").KeyJSON, 0o600))
	s.held.renew, s.ended = time.Now(), time.Time{}
	if got := claims(t, d.token(s)); got.ClientID != "device-pi-5" {
		t.Errorf("the token is that of %q", got.ClientID)
	}
}

// TestClock: a device whose clock is years off gets tokens, and one whose clock is
// set then too.
func TestClock(t *testing.T) {
	for name, off := range map[string]time.Duration{"behind": -20 * 365 * 24 * time.Hour, "ahead": 5 * 365 * 24 * time.Hour, "an hour ahead": time.Hour} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, oidc.Options{})
			d.options.Now = func() time.Time { return time.Now().Add(off) }
			s := d.source()
			d.token(s)
			if d.logged("clock is wrong") != 1 {
				t.Errorf("logged:\n%s", d.log.String())
			}
			if !time.Now().Before(s.held.expires) {
				t.Error("the age of the token is told by the clock")
			}
			again := func() {
				t.Helper()
				requests := d.provider.Requests().Token
				s.held.renew, s.ended = time.Now(), time.Time{}
				d.token(s)
				if d.provider.Requests().Token == requests {
					t.Error("not asked")
				}
			}
			again()
			if d.logged("clock is wrong") != 1 {
				t.Error("the offset is forgotten")
			}
			s.options.Now = time.Now
			again()
		})
	}
}

// TestTLS: the issuer's certificate is checked, against ca_file when there is one.
func TestTLS(t *testing.T) {
	certificates := httptest.NewTLSServer(nil)
	certificates.Close()
	d := newDevice(t, oidc.Options{TLS: &tls.Config{Certificates: certificates.TLS.Certificates}})
	if _, err := d.source().Token(t.Context()); err == nil || !strings.Contains(err.Error(), "set [credentials] ca_file") {
		t.Errorf("a certificate that nobody signed: %v", err)
	}
	d.options.Credentials.CAFile = d.file([]byte("nothing"))
	if _, err := d.source().Token(t.Context()); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("a file that is none: %v", err)
	}
	d.options.Credentials.CAFile = d.file(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificates.Certificate().Raw}))
	d.token(d.source())
}

// TestFiles: what is wrong with a file is told, and nothing of it.
func TestFiles(t *testing.T) {
	d := newDevice(t, oidc.Options{})
	var key map[string]string
	d.must(json.Unmarshal(d.machine.KeyJSON, &key))
	with := func(name, value string) []byte {
		changed := map[string]string{}
		for k, v := range key {
			changed[k] = v
		}
		changed[name] = value
		data, err := json.Marshal(changed)
		d.must(err)
		return data
	}
	for reason, c := range map[string]struct {
		change func(*v1alpha1.Credentials)
		want   string
	}{
		"missing":           {func(c *v1alpha1.Credentials) { c.KeyFile = "/nonexistent/key" }, "key_file: open /nonexistent/key"},
		"no JSON":           {func(c *v1alpha1.Credentials) { c.KeyFile = d.file([]byte("HUNTER2")) }, "is not the key of a machine user"},
		"of an application": {func(c *v1alpha1.Credentials) { c.KeyFile = d.file(with("type", "application")) }, "is not the key of a machine user"},
		"no key":            {func(c *v1alpha1.Credentials) { c.KeyFile = d.file(with("key", "HUNTER2")) }, "cannot be used to sign"},
		"of a stranger":     {func(c *v1alpha1.Credentials) { c.KeyFile = d.file(with("userId", "1")) }, "refused the key"},
		"replaced":          {func(c *v1alpha1.Credentials) { c.KeyFile = d.file(with("keyId", "1")) }, "refused the key"},
		"no CA":             {func(c *v1alpha1.Credentials) { c.CAFile = "/nonexistent/ca" }, "ca_file: open /nonexistent/ca"},
	} {
		t.Run(reason, func(t *testing.T) {
			options := d.options
			c.change(&options.Credentials)
			d.expect(options, c.want, "HUNTER2", key["key"])
		})
	}
	d.secret()
	for reason, c := range map[string]struct {
		change func(*v1alpha1.Credentials)
		want   string
	}{
		"no secret":    {func(c *v1alpha1.Credentials) { c.ClientSecretFile = "/nonexistent/secret" }, "client_secret_file: open"},
		"empty secret": {func(c *v1alpha1.Credentials) { c.ClientSecretFile = d.file([]byte("\n")) }, "is empty"},
		"wrong secret": {func(c *v1alpha1.Credentials) { c.ClientSecretFile = d.file([]byte("HUNTER2")) }, `refused [credentials] client_id "device-pi-4" with the secret`},
	} {
		t.Run(reason, func(t *testing.T) {
			options := d.options
			c.change(&options.Credentials)
			d.expect(options, c.want, "HUNTER2")
		})
	}
}

// expect gets no token, for a reason that tells no secret.
func (d *device) expect(options Options, want string, secrets ...string) {
	d.Helper()
	_, err := New(options).Token(d.Context())
	if err == nil || !strings.Contains(err.Error(), want) {
		d.Errorf("got %v, want %q", err, want)
	}
	for _, secret := range secrets {
		if err != nil && strings.Contains(err.Error(), secret) {
			d.Errorf("a secret is in the error: %v", err)
		}
	}
}

// TestOddProviders: what providers may answer, and that no secret of it is told.
func TestOddProviders(t *testing.T) {
	const secret = "HUNTER2"
	for reason, c := range map[string]struct {
		issuer  string // that discovery speaks for; "" means the right one
		methods []string
		answer  func(http.ResponseWriter, *http.Request)
		want    string // "" means a token
		outage  bool
	}{
		"opaque tokens": {answer: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"access_token":"HUNTER2","token_type":"Bearer","expires_in":60}`)
		}, want: "access token type of the machine user"},
		"a damaged answer": {answer: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"access_token":"HUNTER2"`)
		}, want: "answers what cannot be read", outage: true},
		"a gateway's error": {answer: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, secret)
		}, want: "it answers 502 Bad Gateway", outage: true},
		"too many requests": {answer: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"error":"slow_down"}`)
		}, want: "429", outage: true},
		"an echo": {answer: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":"%s is\nwrong"}`, secret)
		}, want: "invalid_client: … is wrong"},
		"a redirect": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, want: "307", outage: true},
		"another issuer": {issuer: "https://other.example.com", want: "speaks for another issuer", outage: true},
		"no header": {methods: []string{"client_secret_post"}, answer: func(w http.ResponseWriter, r *http.Request) {
			if _, _, basic := r.BasicAuth(); basic || r.FormValue("client_secret") != secret || r.FormValue("audience") != "fleet" || r.FormValue("scope") != "one two" {
				t.Errorf("asked with %v", r.Form)
			}
			fmt.Fprint(w, `{"access_token":"a.b.c","token_type":"Bearer"}`)
		}},
	} {
		t.Run(reason, func(t *testing.T) {
			mux := http.NewServeMux()
			server := httptest.NewServer(mux)
			t.Cleanup(server.Close)
			issuer := server.URL
			if c.issuer != "" {
				issuer = c.issuer
			}
			mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]any{"issuer": issuer, "token_endpoint": server.URL + "/token", "token_endpoint_auth_methods_supported": c.methods})
			})
			mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { t.Error("went elsewhere") })
			if c.answer != nil {
				mux.HandleFunc("/token", c.answer)
			}
			d := &device{T: t}
			d.options = Options{Now: time.Now, Credentials: v1alpha1.Credentials{
				Type: v1alpha1.CredentialClientCredentials, Issuer: server.URL, Audience: "fleet", ClientID: "pi-4",
				ClientSecretFile: d.file([]byte(secret)), Scopes: []string{"one", "two"},
			}}
			if c.want == "" {
				s := d.source()
				d.token(s)
				if life := time.Until(s.held.expires); life > assumedLife || life < assumedLife/2 {
					t.Errorf("a token of unknown life is held to be good for %s", life)
				}
				return
			}
			d.expect(d.options, c.want, secret)
			_, err := New(d.options).Token(t.Context())
			var down outage
			if errors.As(err, &down) != c.outage {
				t.Errorf("an outage: %v", !c.outage)
			}
		})
	}
}
