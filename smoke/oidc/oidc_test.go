package oidc

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	coreos "github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"github.com/zitadel/oidc/v3/pkg/client/profile"
	"go.uber.org/goleak"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const project = "300000000000000001"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a provider for the test and returns what to talk to it with.
func start(t *testing.T, options Options) (*Provider, *http.Client) {
	t.Helper()
	options.ProjectID = project
	p, err := Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

func add(t *testing.T, p *Provider, m Machine) Credentials {
	t.Helper()
	credentials, err := p.AddMachine(m)
	if err != nil {
		t.Fatal(err)
	}
	return credentials
}

// verifier finds the provider by discovery, as a relying party does.
func verifier(t *testing.T, p *Provider, http *http.Client, config coreos.Config) *coreos.IDTokenVerifier {
	t.Helper()
	provider, err := coreos.NewProvider(coreos.ClientContext(t.Context(), http), p.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	return provider.Verifier(&config)
}

// keyOf reads the file that a machine got.
func keyOf(t *testing.T, credentials Credentials) (id, pemKey string, key *rsa.PrivateKey) {
	t.Helper()
	var file struct{ Type, KeyID, Key, UserID string }
	if err := json.Unmarshal(credentials.KeyJSON, &file); err != nil {
		t.Fatal(err)
	}
	if file.Type != "serviceaccount" || file.UserID != credentials.UserID {
		t.Errorf("the key file is of the type %q and for the user %q, want %q", file.Type, file.UserID, credentials.UserID)
	}
	block, _ := pem.Decode([]byte(file.Key))
	if block == nil || block.Type != "RSA PRIVATE KEY" {
		t.Fatalf("the key file has no RSA key: %v", block)
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return file.KeyID, file.Key, key
}

// byKey and bySecret get a token with the two grants.
func byKey(t *testing.T, p *Provider, http *http.Client, credentials Credentials, scopes ...string) (*oauth2.Token, error) {
	t.Helper()
	id, key, _ := keyOf(t, credentials)
	source, err := profile.NewJWTProfileTokenSource(t.Context(), p.Issuer(), credentials.UserID, id, []byte(key), scopes, profile.WithHTTPClient(http))
	if err != nil {
		return nil, err
	}
	return source.TokenCtx(t.Context())
}

func bySecret(t *testing.T, p *Provider, http *http.Client, credentials Credentials, scopes ...string) (*oauth2.Token, error) {
	t.Helper()
	config := clientcredentials.Config{
		ClientID: credentials.ClientID, ClientSecret: credentials.ClientSecret,
		TokenURL: p.Issuer() + tokenPath, Scopes: scopes,
	}
	return config.Token(context.WithValue(t.Context(), oauth2.HTTPClient, http))
}

func TestGrants(t *testing.T) {
	type grant func(*testing.T, *Provider, *http.Client, Credentials, ...string) (*oauth2.Token, error)
	p, http := start(t, Options{TokenLifetime: 90 * time.Second})
	credentials := add(t, p, Machine{Name: "device-Edge_7", Roles: []string{"device"}})
	verify := verifier(t, p, http, coreos.Config{ClientID: project})
	for name, get := range map[string]grant{"key": byKey, "secret": bySecret} {
		t.Run(name, func(t *testing.T) {
			const lifetime = 90 * time.Second
			before := time.Now()
			token, err := get(t, p, http, credentials, "openid", audienceScope(project), scopeProjectsRoles)
			if err != nil {
				t.Fatal(err)
			}
			if token.Expiry.Before(before.Add(lifetime)) || token.Expiry.After(time.Now().Add(lifetime)) {
				t.Errorf("asked for at %s, the token says that it expires at %s", before, token.Expiry)
			}
			verified, err := verify.Verify(t.Context(), token.AccessToken)
			if err != nil {
				t.Fatal(err)
			}
			var claims map[string]any
			if err := verified.Claims(&claims); err != nil {
				t.Fatal(err)
			}
			issued := claims["iat"].(float64)
			roles := map[string]any{"device": map[string]any{p.org: orgDomain}}
			want := map[string]any{
				"iss": p.Issuer(), "sub": credentials.UserID, "aud": []any{project}, "client_id": "device-Edge_7",
				"iat": issued, "nbf": issued, "exp": issued + lifetime.Seconds(), "jti": claims["jti"],
				"urn:zitadel:iam:org:project:roles":                 roles,
				"urn:zitadel:iam:org:project:" + project + ":roles": roles,
			}
			if diff := cmp.Diff(want, claims); diff != "" {
				t.Error(diff)
			}
			if id, _ := claims["jti"].(string); id == "" {
				t.Error("the token has no id")
			}
		})
	}
}

func TestLifetime(t *testing.T) {
	p, http := start(t, Options{TokenLifetime: time.Minute})
	token, err := bySecret(t, p, http, add(t, p, Machine{Name: "mine"}), audienceScope(project))
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]bool{30 * time.Second: false, 90 * time.Second: true} {
		clock := func() time.Time { return time.Now().Add(after) }
		_, err := verifier(t, p, http, coreos.Config{ClientID: project, Now: clock}).Verify(t.Context(), token.AccessToken)
		var expired *coreos.TokenExpiredError
		if errors.As(err, &expired) != want || err != nil != want {
			t.Errorf("after %s: %v", after, err)
		}
	}
}

func TestScopes(t *testing.T) {
	p, http := start(t, Options{})
	toAudience := audienceScope(project)
	general, ofProject := "urn:zitadel:iam:org:project:roles", "urn:zitadel:iam:org:project:"+project+":roles"
	asMap := map[string]any{"device": map[string]any{p.org: orgDomain}, "ops": map[string]any{p.org: orgDomain}}
	asArray := []any{"device", "ops"}
	machines := map[RoleClaims]Credentials{}
	for shape, name := range map[RoleClaims]string{RoleMaps: "maps", ProjectRoleMap: "project-map", RoleArrays: "arrays"} {
		machines[shape] = add(t, p, Machine{Name: name, Roles: []string{"device", "ops"}, RoleClaims: shape})
	}
	tests := map[string]struct {
		reason string
		shape  RoleClaims
		scopes []string
		want   map[string]any // aud and the claims of roles
	}{
		"nothing":             {"a token that is for no one else is for its own client", RoleMaps, []string{"openid"}, map[string]any{"aud": []any{"maps"}}},
		"audience":            {"roles come only when asked for", RoleMaps, []string{toAudience}, map[string]any{"aud": []any{project}}},
		"audiences":           {"each project that is asked for is one", RoleMaps, []string{toAudience, audienceScope("2"), toAudience}, map[string]any{"aud": []any{project, "2"}}},
		"roles":               {"Zitadel's scope", RoleMaps, []string{scopeProjectsRoles}, map[string]any{"aud": []any{"maps"}, general: asMap, ofProject: asMap}},
		"roles by the claim":  {"the scope named like the claim", RoleMaps, []string{scopeProjectRoles}, map[string]any{"aud": []any{"maps"}, general: asMap, ofProject: asMap}},
		"arrays":              {"another provider", RoleArrays, []string{toAudience, scopeProjectsRoles}, map[string]any{"aud": []any{project}, general: asArray, ofProject: asArray}},
		"project":             {"no general claim for a machine", ProjectRoleMap, []string{toAudience, scopeProjectsRoles}, map[string]any{"aud": []any{project}, ofProject: asMap}},
		"project, no aud":     {"roles of no project", ProjectRoleMap, []string{scopeProjectsRoles}, map[string]any{"aud": []any{"project-map"}}},
		"project, no such":    {"Zitadel knows no scope of this name", ProjectRoleMap, []string{toAudience, scopeProjectRoles}, map[string]any{"aud": []any{project}}},
		"project, of another": {"the machine has no role there", ProjectRoleMap, []string{audienceScope("2"), scopeProjectsRoles}, map[string]any{"aud": []any{"2"}}},
	}
	verify := verifier(t, p, http, coreos.Config{SkipClientIDCheck: true})
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			token, err := bySecret(t, p, http, machines[tc.shape], tc.scopes...)
			if err != nil {
				t.Fatal(err)
			}
			verified, err := verify.Verify(t.Context(), token.AccessToken)
			if err != nil {
				t.Fatal(err)
			}
			var all map[string]any
			if err := verified.Claims(&all); err != nil {
				t.Fatal(err)
			}
			got := map[string]any{}
			for claim, value := range all {
				if claim == "aud" || strings.HasPrefix(claim, "urn:") {
					got[claim] = value
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: %s", tc.reason, diff)
			}
		})
	}
}

// refusal posts to the token endpoint and returns the status and the OAuth error.
func refusal(t *testing.T, p *Provider, http *http.Client, form url.Values) (int, string) {
	t.Helper()
	response, err := http.PostForm(p.Issuer()+tokenPath, form)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var body struct {
		Error string
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if body.Token != "" {
		t.Error("a refusal with a token")
	}
	return response.StatusCode, body.Error
}

func TestAssertionsRefused(t *testing.T) {
	p, http := start(t, Options{})
	mine, other := add(t, p, Machine{Name: "mine"}), add(t, p, Machine{Name: "other"})
	removed := add(t, p, Machine{Name: "removed"})
	p.RemoveMachine("removed")
	id, _, key := keyOf(t, mine)
	otherID, _, otherKey := keyOf(t, other)
	removedID, _, removedKey := keyOf(t, removed)
	now := time.Now().Unix()
	tests := map[string]struct {
		reason string
		keyID  string
		key    any
		claims map[string]any // over those of an honest assertion of mine
		want   string         // "": granted
	}{
		"honest":         {"the cases below differ in one thing each", id, key, nil, ""},
		"wrong key":      {"signed by another machine", id, otherKey, nil, "invalid_grant"},
		"unknown key":    {"no key has this id", "1", key, nil, "invalid_grant"},
		"key of another": {"a key signs for its own user alone", otherID, otherKey, nil, "invalid_grant"},
		"unsigned":       {"no signature is none", id, nil, nil, "invalid_grant"},
		"expired":        {"its time is over", id, key, map[string]any{"iat": now - 600, "exp": now - 300}, "invalid_grant"},
		"no expiry":      {"it would be valid forever", id, key, map[string]any{"exp": nil}, "invalid_grant"},
		"too old":        {"issued longer ago than an hour", id, key, map[string]any{"iat": now - 7200}, "invalid_grant"},
		"replayed":       {"made for another provider", id, key, map[string]any{"aud": "http://127.0.0.1:1"}, "invalid_grant"},
		"for another":    {"the issuer must be the subject", id, key, map[string]any{"sub": other.UserID}, "invalid_grant"},
		"unknown user":   {"no such user", id, key, map[string]any{"iss": "1", "sub": "1"}, "invalid_grant"},
		"removed user":   {"no such user any more", removedID, removedKey, map[string]any{"iss": removed.UserID, "sub": removed.UserID}, "invalid_grant"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			claims := map[string]any{"iss": mine.UserID, "sub": mine.UserID, "aud": p.Issuer(), "iat": now, "exp": now + 300}
			for claim, value := range tc.claims {
				claims[claim] = value
			}
			payload, err := json.Marshal(claims)
			if err != nil {
				t.Fatal(err)
			}
			assertion, err := Sign(map[string]any{"alg": "RS256", "kid": tc.keyID}, payload, tc.key)
			if err != nil {
				t.Fatal(err)
			}
			form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}, "scope": {"openid"}}
			if tc.want == "" {
				response, err := http.PostForm(p.Issuer()+tokenPath, form)
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				if response.StatusCode != 200 {
					t.Errorf("%s: status %d", tc.reason, response.StatusCode)
				}
				return
			}
			if status, got := refusal(t, p, http, form); got != tc.want || status != 400 {
				t.Errorf("%s: status %d, error %q, want %q", tc.reason, status, got, tc.want)
			}
		})
	}
}

func TestClientsRefused(t *testing.T) {
	p, http := start(t, Options{})
	mine, other := add(t, p, Machine{Name: "mine"}), add(t, p, Machine{Name: "other"})
	tests := map[string]struct {
		reason, grant, id, secret, scope string
		status                           int
		want                             string
	}{
		"wrong secret":   {"the secret of another machine", "client_credentials", "mine", other.ClientSecret, "openid", 401, "invalid_client"},
		"no secret":      {"no client is public", "client_credentials", "mine", "", "openid", 401, "invalid_client"},
		"unknown client": {"no such machine", "client_credentials", "nobody", mine.ClientSecret, "openid", 401, "invalid_client"},
		"no scope":       {"Zitadel wants at least one", "client_credentials", "mine", mine.ClientSecret, "", 400, "invalid_request"},
		"other grant":    {"a machine cannot log in", "authorization_code", "mine", mine.ClientSecret, "openid", 400, "unauthorized_client"},
		"unknown grant":  {"not OAuth", "wish", "mine", mine.ClientSecret, "openid", 400, "unsupported_grant_type"},
		"no grant":       {"mandatory", "", "mine", mine.ClientSecret, "openid", 400, "invalid_request"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			form := url.Values{"grant_type": {tc.grant}, "client_id": {tc.id}, "client_secret": {tc.secret}}
			if tc.scope != "" {
				form.Set("scope", tc.scope)
			}
			if status, got := refusal(t, p, http, form); got != tc.want || status != tc.status {
				t.Errorf("%s: status %d, error %q, want %d, %q", tc.reason, status, got, tc.status, tc.want)
			}
		})
	}
}

func TestMachinesRefused(t *testing.T) {
	p, _ := start(t, Options{})
	add(t, p, Machine{Name: "mine"})
	for _, name := range []string{"", "mine"} {
		if _, err := p.AddMachine(Machine{Name: name}); err == nil {
			t.Errorf("a machine named %q was added", name)
		}
	}
	if _, err := p.Claims("nobody"); err == nil {
		t.Error("claims of nobody")
	}
	p.RemoveMachine("mine")
	p.RemoveMachine("mine")
	add(t, p, Machine{Name: "mine"})
}

// TestForgeries proves that forgeries are what they say: the same token is
// accepted when it is honest, and go-oidc tells why it refuses the others.
func TestForgeries(t *testing.T) {
	p, http := start(t, Options{})
	add(t, p, Machine{Name: "mine", Roles: []string{"device"}})
	stranger, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	claims, err := p.Claims("mine")
	if err != nil {
		t.Fatal(err)
	}
	with := func(claim string, value any) map[string]any {
		changed := map[string]any{}
		for name, old := range claims {
			changed[name] = old
		}
		changed[claim] = value
		return changed
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	id, key := p.SigningKey()
	now := time.Now().Unix()
	tests := map[string]struct {
		make func() (string, error)
		want string // in the error; "": accepted
	}{
		"honest":       {func() (string, error) { return p.Token(claims) }, ""},
		"extra header": {func() (string, error) { return p.SignWith(map[string]any{"jku": "http://127.0.0.1:1"}, claims) }, ""},
		"no key id":    {func() (string, error) { return p.SignWith(map[string]any{"kid": nil}, claims) }, ""},
		"other key id": {func() (string, error) { return p.SignWith(map[string]any{"kid": "../" + id}, claims) }, "failed to verify"},
		"none":         {func() (string, error) { return Sign(map[string]any{"alg": "none"}, payload, nil) }, "unexpected signature algorithm"},
		"unsigned":     {func() (string, error) { return Sign(map[string]any{"alg": "RS256", "kid": id}, payload, nil) }, "failed to verify"},
		"public secret": {func() (string, error) {
			return Sign(map[string]any{"alg": "HS256", "kid": id}, payload, p.PublicKeyPEM())
		}, "unexpected signature algorithm"},
		"other method":   {func() (string, error) { return p.SignWith(map[string]any{"alg": "ES256"}, claims) }, "unexpected signature algorithm"},
		"stranger":       {func() (string, error) { return Sign(map[string]any{"alg": "RS256", "kid": id}, payload, stranger.key) }, "failed to verify"},
		"nested":         {func() (string, error) { return nested(p, key) }, "failed to unmarshal"},
		"other issuer":   {func() (string, error) { return p.Token(with("iss", "http://127.0.0.1:1")) }, "different provider"},
		"other audience": {func() (string, error) { return p.Token(with("aud", "nats")) }, "expected audience"},
		"no expiry":      {func() (string, error) { return p.Token(with("exp", nil)) }, "expired"},
		"expired":        {func() (string, error) { return p.Token(with("exp", now-60)) }, "expired"},
		"not yet":        {func() (string, error) { return p.Token(with("nbf", now+3600)) }, "before the nbf"},
		"name twice":     {func() (string, error) { return p.SignWith(nil, twice(payload)) }, "expected audience"},
		"a megabyte":     {func() (string, error) { return p.Token(with("padding", strings.Repeat("x", 1<<20))) }, ""},
	}
	verify := verifier(t, p, http, coreos.Config{ClientID: project})
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			token, err := tc.make()
			if err != nil {
				t.Fatal(err)
			}
			_, err = verify.Verify(t.Context(), token)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
	if _, err := Sign(nil, nil, "a string"); err == nil {
		t.Error("signed with a string")
	}
}

// nested is a token in a token.
func nested(p *Provider, key *rsa.PrivateKey) (string, error) {
	inner, err := p.Token(nil)
	if err != nil {
		return "", err
	}
	id, _ := p.SigningKey()
	return Sign(map[string]any{"alg": "RS256", "kid": id, "cty": "JWT"}, []byte(inner), key)
}

// twice adds a second audience to an object that has one.
func twice(object []byte) json.RawMessage {
	return json.RawMessage(strings.TrimSuffix(string(object), "}") + `,"aud":"other"}`)
}

func TestPerson(t *testing.T) {
	p, http := start(t, Options{})
	token, err := p.Token(map[string]any{"sub": "alice", "aud": "kubernetes", "groups": []string{"fleet-admin"}})
	if err != nil {
		t.Fatal(err)
	}
	verified, err := verifier(t, p, http, coreos.Config{ClientID: "kubernetes"}).Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Subject string `json:"sub"`
		Groups  []string
	}
	if err := verified.Claims(&claims); err != nil || claims.Subject != "alice" || !cmp.Equal(claims.Groups, []string{"fleet-admin"}) {
		t.Errorf("got %+v, %v", claims, err)
	}
}

func TestRotation(t *testing.T) {
	p, http := start(t, Options{})
	credentials := add(t, p, Machine{Name: "mine"})
	token := func() string {
		t.Helper()
		token, err := bySecret(t, p, http, credentials, audienceScope(project))
		if err != nil {
			t.Fatal(err)
		}
		return token.AccessToken
	}
	lasting := verifier(t, p, http, coreos.Config{ClientID: project})
	check := func(when string, verify *coreos.IDTokenVerifier, token string, valid bool, fetched int) {
		t.Helper()
		before := p.Requests().Keys
		if _, err := verify.Verify(t.Context(), token); (err == nil) != valid {
			t.Errorf("%s: %v", when, err)
		}
		if n := p.Requests().Keys - before; n != fetched {
			t.Errorf("%s: the keys were fetched %d times, want %d", when, n, fetched)
		}
	}
	old := token()
	check("at first", lasting, old, true, 1)
	check("again", lasting, old, true, 0)
	if err := p.RotateKeys(); err != nil {
		t.Fatal(err)
	}
	current := token()
	check("after the rotation", lasting, current, true, 1)
	check("of the old key, which is published still", lasting, old, true, 0)
	p.RetireOldKeys()
	check("of the old key, which is cached still", lasting, old, true, 0)
	fresh := verifier(t, p, http, coreos.Config{ClientID: project})
	check("of the old key, which is gone", fresh, old, false, 1)
	check("after the retirement", fresh, current, true, 0)
	if got, want := p.Requests(), (Requests{Discovery: 2, Keys: 3, Token: 2}); got != want {
		t.Errorf("Requests() = %+v, want %+v", got, want)
	}
}

func TestOutage(t *testing.T) {
	p, http := start(t, Options{})
	credentials := add(t, p, Machine{Name: "mine"})
	scope := audienceScope(project)
	verify := verifier(t, p, http, coreos.Config{ClientID: project})
	before, err := byKey(t, p, http, credentials, scope)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when, token string) {
		t.Helper()
		if _, err := verify.Verify(t.Context(), token); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	check("before", before.AccessToken)
	issuer := p.Issuer()

	p.Stop()
	p.Stop()
	if _, err := bySecret(t, p, http, credentials, scope); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("in the outage: %v", err)
	}
	check("in the outage, with the keys cached", before.AccessToken)

	for range 2 { // the second stops it first
		if err := p.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		after, err := byKey(t, p, http, credentials, scope)
		if err != nil {
			t.Fatal(err)
		}
		check("after the outage", after.AccessToken)
	}
	if p.Issuer() != issuer || p.Requests().Keys != 1 {
		t.Errorf("the issuer was %s and is %s; the keys were fetched %d times", issuer, p.Issuer(), p.Requests().Keys)
	}
}

func TestOptions(t *testing.T) {
	p, _ := start(t, Options{})
	if second, err := Start(t.Context(), Options{Port: p.options.Port}); err == nil {
		second.Stop()
		t.Error("two providers on one port")
	}
	for _, lifetime := range []time.Duration{-time.Hour, time.Millisecond} {
		if odd, err := Start(t.Context(), Options{TokenLifetime: lifetime}); err == nil {
			odd.Stop()
			t.Errorf("a provider whose tokens live for %s", lifetime)
		}
	}
}

func TestTLS(t *testing.T) {
	certified := httptest.NewTLSServer(nil) // for its certificate and a client that trusts it
	defer certified.Close()
	p, _ := start(t, Options{TLS: certified.TLS})
	http := certified.Client()
	defer http.CloseIdleConnections()
	if !strings.HasPrefix(p.Issuer(), "https://127.0.0.1:") {
		t.Errorf("Issuer() = %s", p.Issuer())
	}
	credentials := add(t, p, Machine{Name: "mine"})
	token, err := byKey(t, p, http, credentials, audienceScope(project))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier(t, p, http, coreos.Config{ClientID: project}).Verify(t.Context(), token.AccessToken); err != nil {
		t.Error(err)
	}
}

// TestConcurrency is for the race detector.
func TestConcurrency(t *testing.T) {
	p, http := start(t, Options{})
	credentials := add(t, p, Machine{Name: "mine", Roles: []string{"device"}})
	verify := verifier(t, p, http, coreos.Config{ClientID: project})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 5 {
				token, err := bySecret(t, p, http, credentials, audienceScope(project), scopeProjectsRoles)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := verify.Verify(t.Context(), token.AccessToken); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Go(func() {
		if err := p.RotateKeys(); err != nil {
			t.Error(err)
		}
	})
	group.Go(func() {
		if _, err := p.AddMachine(Machine{Name: "other"}); err != nil {
			t.Error(err)
		}
		p.RemoveMachine("other")
	})
	group.Wait()
	if n := p.Requests().Token; n != 20 {
		t.Errorf("%d tokens were asked for, want 20", n)
	}
}
