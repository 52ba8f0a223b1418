package openbao_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
	"github.com/openbao/openbao/api/v2"
	"go.uber.org/goleak"

	"github.com/nationtech/harmony-fleet/smoke/openbao"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) *openbao.Server {
	t.Helper()
	s, err := openbao.Start(t.Context(), openbao.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func client(t *testing.T, s *openbao.Server, token string) *api.Client {
	t.Helper()
	c, err := s.Client(token)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// status of a refusal; 0 for anything else.
func status(err error) int {
	var refused *api.ResponseError
	if errors.As(err, &refused) {
		return refused.StatusCode
	}
	return 0
}

// issuer signs tokens as an identity provider does.
type issuer struct {
	key  *rsa.PrivateKey
	name string
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	return issuer{key: key, name: "https://issuer.example"}
}

func (i issuer) publicPEM(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// serve publishes the key and, for discovery, where it is.
func (i *issuer) serve(t *testing.T) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	answer := func(path string, body any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(body) // a client that is gone is not the test's concern
		})
	}
	answer("/keys", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "1", Algorithm: "RS256", Use: "sig"}}})
	answer("/.well-known/openid-configuration", map[string]any{
		"issuer": server.URL, "jwks_uri": server.URL + "/keys", "authorization_endpoint": server.URL + "/authorize",
		"id_token_signing_alg_values_supported": []string{"RS256"},
	})
	i.name = server.URL
	return server.URL
}

// token for the audience "vault" and the device "pi-4", valid for an hour, except
// for what the changes say.
func (i issuer) token(t *testing.T, changes map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: i.key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	must(t, err)
	now := time.Now()
	claims := map[string]any{
		"iss": i.name, "aud": "vault", "sub": "user-1", "device": "pi-4", "kind": "device",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for name, value := range changes {
		claims[name] = value
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	must(t, err)
	return token
}

// login returns a client with the token that the server gives for the JWT.
func login(t *testing.T, s *openbao.Server, role, token string) (*api.Client, error) {
	t.Helper()
	secret, err := client(t, s, "").Logical().WriteWithContext(t.Context(), "auth/jwt/login", map[string]any{"role": role, "jwt": token})
	if err != nil {
		return nil, err
	}
	return client(t, s, secret.Auth.ClientToken), nil
}

// deviceRole admits devices and remembers which one it is.
var deviceRole = openbao.Role{
	Audiences: []string{"vault"},
	Claims:    map[string]any{"kind": "device"},
	Metadata:  map[string]string{"device": "device"},
	Policies:  []string{"devices"},
	TTL:       time.Hour,
}

// startFleet runs a server that lets each device read what is below its own name
// in the engine "secret", with a secret for pi-4 and one for pi-5.
func startFleet(t *testing.T) (*openbao.Server, issuer) {
	t.Helper()
	s, i := start(t), newIssuer(t)
	must(t, s.EnableKV(t.Context(), "secret"))
	accessor, err := s.EnableJWT(t.Context(), "jwt", openbao.Issuer{PublicKeys: []string{i.publicPEM(t)}, Name: i.name})
	must(t, err)
	must(t, s.WritePolicy(t.Context(), "devices", fmt.Sprintf(
		`path "secret/data/devices/{{identity.entity.aliases.%s.metadata.device}}/*" { capabilities = ["read"] }`, accessor)))
	must(t, s.WriteRole(t.Context(), "jwt", "device", deviceRole))
	for _, id := range []string{"pi-4", "pi-5"} {
		must(t, s.PutSecret(t.Context(), "secret", "devices/"+id+"/wifi", map[string]any{"password": "of " + id}))
	}
	return s, i
}

func TestSecretHasVersions(t *testing.T) {
	s := start(t)
	must(t, s.EnableKV(t.Context(), "secret"))
	for _, password := range []string{"first", "second"} {
		must(t, s.PutSecret(t.Context(), "secret", "a/b", map[string]any{"password": password}))
	}
	kv := client(t, s, s.RootToken()).KVv2("secret")
	for version, want := range map[int]string{1: "first", 2: "second"} {
		got, err := kv.GetVersion(t.Context(), "a/b", version)
		must(t, err)
		if diff := cmp.Diff(map[string]any{"password": want}, got.Data); diff != "" {
			t.Errorf("version %d (-want +got):\n%s", version, diff)
		}
	}
	if _, err := kv.Get(t.Context(), "a/c"); !errors.Is(err, api.ErrSecretNotFound) {
		t.Errorf("reading what nobody wrote: %v", err)
	}
}

func TestLogin(t *testing.T) {
	s, i := startFleet(t)
	tests := map[string]struct {
		reason string
		token  string
		ok     bool
	}{
		"fits":          {"the role's audience and claim are there", i.token(t, nil), true},
		"audience":      {"a token for another service is not one for this", i.token(t, map[string]any{"aud": "other"}), false},
		"claim":         {"the role is for devices", i.token(t, map[string]any{"kind": "person"}), false},
		"issuer":        {"the mount is bound to one issuer", i.token(t, map[string]any{"iss": "https://other.example"}), false},
		"expired":       {"a token has an end", i.token(t, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), false},
		"another's key": {"anybody can write such claims", issuer{newIssuer(t).key, i.name}.token(t, nil), false},
		"not a JWT":     {"rubbish is refused, not an error of the server", "rubbish", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := login(t, s, "device", tc.token)
			if tc.ok && err != nil {
				t.Errorf("%s: %v", tc.reason, err)
			}
			if !tc.ok && status(err) != http.StatusBadRequest {
				t.Errorf("%s: want a refusal, got %v", tc.reason, err)
			}
		})
	}
}

func TestSourcesOfKeys(t *testing.T) {
	tests := map[string]struct {
		reason string
		from   func(t *testing.T, i *issuer) openbao.Issuer
	}{
		"PEM": {"asks nobody", func(t *testing.T, i *issuer) openbao.Issuer {
			return openbao.Issuer{PublicKeys: []string{i.publicPEM(t)}}
		}},
		"JWKS":      {"asks the issuer for its keys", func(t *testing.T, i *issuer) openbao.Issuer { return openbao.Issuer{JWKSURL: i.serve(t) + "/keys"} }},
		"discovery": {"asks the issuer where they are", func(t *testing.T, i *issuer) openbao.Issuer { return openbao.Issuer{DiscoveryURL: i.serve(t)} }},
	}
	s := start(t)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			i := newIssuer(t)
			_, err := s.EnableJWT(t.Context(), "jwt", tc.from(t, &i))
			must(t, err)
			t.Cleanup(func() { must(t, client(t, s, s.RootToken()).Sys().DisableAuth("jwt")) })
			must(t, s.WriteRole(t.Context(), "jwt", "device", deviceRole))
			if _, err := login(t, s, "device", i.token(t, nil)); err != nil {
				t.Errorf("%s: %v", tc.reason, err)
			}
			if _, err := login(t, s, "device", issuer{newIssuer(t).key, i.name}.token(t, nil)); status(err) != http.StatusBadRequest {
				t.Errorf("a token that another key signed: %v", err)
			}
		})
	}
}

// TestPolicyNamesTheDevice: one policy gives each device its own path, by what
// the login remembers of the token.
func TestPolicyNamesTheDevice(t *testing.T) {
	s, i := startFleet(t)
	for _, own := range []string{"pi-4", "pi-5"} {
		device, err := login(t, s, "device", i.token(t, map[string]any{"device": own, "sub": "user-of-" + own}))
		must(t, err)
		for _, id := range []string{"pi-4", "pi-5"} {
			got, err := device.KVv2("secret").Get(t.Context(), "devices/"+id+"/wifi")
			if id != own {
				if status(err) != http.StatusForbidden {
					t.Errorf("%s read the secret of %s: %v", own, id, err)
				}
				continue
			}
			must(t, err)
			if got.Data["password"] != "of "+own {
				t.Errorf("%s read %v", own, got.Data)
			}
		}
		if _, err := device.KVv2("secret").Put(t.Context(), "devices/"+own+"/wifi", map[string]any{}); status(err) != http.StatusForbidden {
			t.Errorf("%s wrote what it may only read: %v", own, err)
		}
	}
}

// TestPolicyOfNoDevice: a token without the claim logs in, since the role does not
// ask for it, and may then read nothing.
func TestPolicyOfNoDevice(t *testing.T) {
	s, i := startFleet(t)
	nobody, err := login(t, s, "device", i.token(t, map[string]any{"device": nil}))
	must(t, err)
	for _, path := range []string{"devices/pi-4/wifi", "devices//wifi"} {
		if _, err := nobody.KVv2("secret").Get(t.Context(), path); status(err) != http.StatusForbidden {
			t.Errorf("reading %s as nobody: %v", path, err)
		}
	}
}

func TestRevokedTokenIsRefused(t *testing.T) {
	s, i := startFleet(t)
	revoked, err := login(t, s, "device", i.token(t, nil))
	must(t, err)
	other, err := login(t, s, "device", i.token(t, nil))
	must(t, err)
	must(t, client(t, s, s.RootToken()).Auth().Token().RevokeTreeWithContext(t.Context(), revoked.Token()))
	if _, err := revoked.KVv2("secret").Get(t.Context(), "devices/pi-4/wifi"); status(err) != http.StatusForbidden {
		t.Errorf("reading with a revoked token: %v", err)
	}
	if _, err := other.KVv2("secret").Get(t.Context(), "devices/pi-4/wifi"); err != nil {
		t.Errorf("reading with the token of another login: %v", err)
	}
}

func TestKilledServerGoesOn(t *testing.T) {
	s, i := startFleet(t)
	device, err := login(t, s, "device", i.token(t, nil))
	must(t, err)
	address, root, pid := s.Address(), s.RootToken(), s.PID()
	s.Kill()
	if _, err := device.KVv2("secret").Get(t.Context(), "devices/pi-4/wifi"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("reading from a server that is down: %v", err)
	}
	must(t, s.Restart(t.Context()))
	if s.Address() != address || s.RootToken() != root || s.PID() == pid {
		t.Errorf("restarted at %s (was %s), same root token: %t, same process: %t", s.Address(), address, s.RootToken() == root, s.PID() == pid)
	}
	got, err := device.KVv2("secret").Get(t.Context(), "devices/pi-4/wifi")
	if err != nil || got.Data["password"] != "of pi-4" {
		t.Errorf("reading with a token from before: %v, %v", got, err)
	}
	if _, err := login(t, s, "device", i.token(t, nil)); err != nil {
		t.Errorf("logging in again: %v", err)
	}
	must(t, s.Restart(t.Context())) // one that runs
	if _, err := device.KVv2("secret").Get(t.Context(), "devices/pi-4/wifi"); err != nil {
		t.Errorf("reading after a second restart: %v", err)
	}
}

func TestFolderOutlivesItsServer(t *testing.T) {
	dir := t.TempDir()
	var root string
	for range 2 {
		s, err := openbao.Start(t.Context(), openbao.Options{Dir: dir})
		must(t, err)
		if root != "" && s.RootToken() != root {
			t.Error("the second server on the folder has another root token")
		}
		root = s.RootToken()
		s.Stop()
	}
	info, err := os.Stat(dir + "/keys.json")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the keys' file: %v, %v", info, err)
	}
}

func TestStopRemovesItsFolder(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	s, err := openbao.Start(t.Context(), openbao.Options{})
	must(t, err)
	s.Stop()
	s.Stop() // twice is no error
	left, err := os.ReadDir(parent)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTakenPortIsAnError(t *testing.T) {
	first := start(t)
	var port int
	if _, err := fmt.Sscanf(first.Address(), "http://127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	s, err := openbao.Start(t.Context(), openbao.Options{Port: port})
	if err == nil {
		s.Stop()
		t.Fatal("two servers on one port")
	}
	if !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("the error does not say why: %v", err)
	}
}
