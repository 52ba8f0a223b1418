package callout_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/apis/policy"
	"github.com/nationtech/harmony-fleet/apis/wire"
	"github.com/nationtech/harmony-fleet/smoke/oidc"
)

// providerWorld is a world whose callout trusts a provider that knows the device
// pi-1.
func providerWorld(t *testing.T) (*world, *oidc.Provider) {
	t.Helper()
	p, err := oidc.Start(t.Context(), oidc.Options{TokenLifetime: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	w := newWorld(t, func(c *config.CalloutConfig) {
		c.OIDC.Issuer, c.OIDC.Audience = p.Issuer(), p.ProjectID()
	})
	w.machine(p, "device-pi-1", "device")
	w.policies.set("pi-1", policy.Policy{})
	return w, p
}

// machine has the provider know a machine, with the role map that Zitadel gives
// to machines.
func (w *world) machine(p *oidc.Provider, name string, roles ...string) {
	w.Helper()
	_, err := p.AddMachine(oidc.Machine{Name: name, Roles: roles, RoleClaims: oidc.ProjectRoleMap})
	w.must(err)
}

// token is one that the provider issues to a machine, with some claims changed.
func (w *world) token(p *oidc.Provider, name string, change map[string]any) string {
	w.Helper()
	claims, err := p.Claims(name)
	w.must(err)
	maps.Copy(claims, change)
	token, err := p.Token(claims)
	w.must(err)
	return token
}

func (w *world) connectToken(token string) (*nats.Conn, error) {
	w.Helper()
	nc, err := nats.Connect(w.broker.URL(), nats.Token(token), nats.NoReconnect(), nats.Timeout(15*time.Second))
	if err == nil {
		w.Cleanup(nc.Close)
	}
	return nc, err
}

// may reports whether the connection may publish to a subject. The refusal comes
// before the answer to the flush.
func (w *world) may(nc *nats.Conn, subject string) bool {
	w.Helper()
	w.must(nc.Publish(subject, []byte("{}")))
	w.must(nc.Flush())
	err := nc.LastError()
	return err == nil || !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subject+`"`)
}

// TestRoles: each role gets what package wire gives it, whichever shape the claim
// has.
func TestRoles(t *testing.T) {
	w, p := providerWorld(t)
	w.machine(p, "operator", "fleet-operator")
	w.machine(p, "anna", "fleet-admin", "somebody-elses-role")
	own, foreign := wire.DeviceInfos.Subject("pi-1"), wire.DeviceInfos.Subject("pi-2")
	desired, ping := wire.DesiredState.Subject("pi-1"), wire.CommandSubject("pi-1", wire.VerbPing)
	roles := "urn:zitadel:iam:org:project:" + p.ProjectID() + ":roles"
	for reason, c := range map[string]struct {
		name   string
		change map[string]any
		may    []string
	}{
		"a device":               {"device-pi-1", nil, []string{own}},
		"a device, list":         {"device-pi-1", map[string]any{roles: []string{"device"}}, []string{own}},
		"an operator":            {"operator", nil, []string{desired}},
		"an admin":               {"anna", nil, []string{ping}},
		"more than one audience": {"device-pi-1", map[string]any{"aud": []string{"other", p.ProjectID()}}, []string{own}},
	} {
		t.Run(reason, func(t *testing.T) {
			nc, err := w.connectToken(w.token(p, c.name, c.change))
			w.must(err)
			for _, subject := range []string{own, foreign, desired, ping} {
				want := false
				for _, allowed := range c.may {
					want = want || allowed == subject
				}
				if got := w.may(nc, subject); got != want {
					t.Errorf("%s: %v", subject, got)
				}
			}
		})
	}
}

// TestBadTokens: what a thief or a careless provider may bring.
func TestBadTokens(t *testing.T) {
	w, p := providerWorld(t)
	w.machine(p, "device-pi-2", "device", "fleet-admin")
	w.machine(p, "device-pi-3")
	w.machine(p, "printer", "device")
	good, err := p.Claims("device-pi-1")
	w.must(err)
	id, key := p.SigningKey()
	with := func(change map[string]any) string { return w.token(p, "device-pi-1", change) }
	signed := func(header map[string]any, claims any) string {
		token, err := p.SignWith(header, claims)
		w.must(err)
		return token
	}
	forged := func(header map[string]any, key any) string {
		payload, err := json.Marshal(good)
		w.must(err)
		token, err := oidc.Sign(header, payload, key)
		w.must(err)
		return token
	}
	doubled, err := json.Marshal(good)
	w.must(err)
	doubled = []byte(strings.Replace(string(doubled), `"client_id":`, `"client_id":"device-pi-9","client_id":`, 1))
	named := func(name string) string { return with(map[string]any{"client_id": name}) }
	roles := "urn:zitadel:iam:org:project:" + p.ProjectID() + ":roles"
	stranger, err := oidc.Start(t.Context(), oidc.Options{})
	w.must(err)
	t.Cleanup(stranger.Stop)
	strangersToken, err := stranger.SignWith(map[string]any{"jku": stranger.Issuer() + "/oauth/v2/keys", "x5u": stranger.Issuer()}, good)
	w.must(err)
	for reason, token := range map[string]string{
		"no token at all":            "x",
		"alg none":                   forged(map[string]any{"alg": "none", "typ": "JWT"}, nil),
		"alg none, with a key id":    forged(map[string]any{"alg": "None", "kid": id}, nil),
		"the public key as a secret": forged(map[string]any{"alg": "HS256", "kid": id}, p.PublicKeyPEM()),
		"unsigned, says RS256":       forged(map[string]any{"alg": "RS256", "kid": id}, nil),
		"signed, says ES256":         forged(map[string]any{"alg": "ES256", "kid": id}, key),
		"signed, says PS256":         forged(map[string]any{"alg": "PS256", "kid": id}, key),
		"a key id that is a path":    signed(map[string]any{"kid": "../../../../dev/null"}, good),
		"a key id that is a URL":     signed(map[string]any{"kid": stranger.Issuer()}, good),
		"keys of its own":            strangersToken,
		"a critical header":          signed(map[string]any{"crit": []string{"exp"}}, good),
		"a token within a token":     signed(map[string]any{"cty": "JWT"}, with(nil)),
		"another issuer":             with(map[string]any{"iss": stranger.Issuer()}),
		"a slash at the issuer":      with(map[string]any{"iss": p.Issuer() + "/"}),
		"another audience":           with(map[string]any{"aud": []string{"other"}}),
		"no audience":                with(map[string]any{"aud": nil}),
		"no expiry":                  with(map[string]any{"exp": nil}),
		"an expiry that is a text":   with(map[string]any{"exp": fmt.Sprint(time.Now().Add(time.Hour).Unix())}),
		"an expiry beyond all":       with(map[string]any{"exp": 1e300}),
		"expired":                    with(map[string]any{"exp": time.Now().Add(-time.Second).Unix()}),
		"not valid yet":              with(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}),
		"a claim twice":              signed(nil, json.RawMessage(doubled)),
		"no role":                    w.token(p, "device-pi-3", nil),
		"two of the fleet's roles":   w.token(p, "device-pi-2", nil),
		"a role that is a text":      with(map[string]any{roles: "device"}),
		"roles of another project":   with(map[string]any{roles: nil, "urn:zitadel:iam:org:project:1:roles": []string{"device"}}),
		"a device without a prefix":  w.token(p, "printer", nil),
		"no name":                    with(map[string]any{"client_id": nil}),
		"a name that is a list":      with(map[string]any{"client_id": []string{"device-pi-1"}}),
		"a wildcard":                 named("device-*"),
		"a tail wildcard":            named("device->"),
		"a dot":                      named("device-pi-1.x"),
		"a dot at the end":           named("device-pi-1."),
		"upper case":                 named("device-PI-1"),
		"a look-alike":               named("device-pі-1"),
		"a space":                    named("device-pi-1 "),
		"a zero byte":                named("device-pi-1\x00"),
		"nothing after the prefix":   named("device-"),
		"never enrolled":             named("device-pi-4"),
		"2 MB":                       with(map[string]any{"pad": strings.Repeat("x", 2<<20)}),
		"20 KB":                      with(map[string]any{"pad": strings.Repeat("x", 20<<10)}),
	} {
		t.Run(reason, func(t *testing.T) {
			if nc, err := w.connectToken(token); err == nil {
				t.Errorf("let in as %s", nc.ConnectedUrl())
			} else if strings.Contains(err.Error(), "claim") {
				t.Errorf("the reason is on the wire: %v", err)
			}
		})
	}
	if w.decisions("granted") != 0 || w.decisions("unavailable") != 0 {
		t.Errorf("%v granted, %v without an answer", w.decisions("granted"), w.decisions("unavailable"))
	}
	if _, err := w.connectToken(with(nil)); err != nil {
		t.Errorf("the control: %v", err)
	}
}

// TestClock (A26): a callout whose clock is off lets devices in as long as their
// tokens allow it, and a provider's clock that is ahead by a minute at most; beyond,
// the log says by which clock the token is none.
func TestClock(t *testing.T) {
	w, p := providerWorld(t)
	w.skew.stop() // however long this takes
	right := w.skew.now().Truncate(time.Second)
	const life, most = 10 * time.Minute, time.Minute
	for _, c := range []struct {
		off     time.Duration // of the callout's clock
		refused string
	}{
		{0, ""},
		{1 - most, ""},
		{-most - time.Second, "is not valid before"},
		{-24 * time.Hour, "is not valid before"},
		{life - 10*time.Second, ""}, // what is left is worth a session
		{life - 2*time.Second, "brings a proof that expires at"},
		{life + time.Second, "expired at"},
		{24 * time.Hour, "expired at"},
	} {
		t.Run(fmt.Sprintf("off by %s", c.off), func(t *testing.T) {
			w.skew.set(right.Add(c.off))
			// Each time another token: one that was good once is not looked at again.
			token := w.token(p, "device-pi-1", map[string]any{"nbf": right.Unix(), "exp": right.Add(life).Unix()})
			before := len(w.log.String())
			_, err := w.connectToken(token)
			log := w.log.String()[before:]
			if c.refused == "" {
				if err != nil {
					t.Errorf("refused: %v, %s", err, log)
				}
				return
			}
			if !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("got %v, want a refusal", err)
			}
			clock := "this clock shows " + right.Add(c.off).UTC().Format(time.RFC3339)
			if !strings.Contains(log, "denied") || !strings.Contains(log, c.refused) || !strings.Contains(log, clock) {
				t.Errorf("logged %q, want %q and %q", log, c.refused, clock)
			}
		})
	}
}

// TestKeysAreCached: neither many devices nor made-up key ids make the callout ask
// the provider often; a new key is found all the same.
func TestKeysAreCached(t *testing.T) {
	w, p := providerWorld(t)
	w.skew.stop() // however long this takes
	for range 20 {
		_, err := w.connectToken(w.token(p, "device-pi-1", nil))
		w.must(err)
	}
	claims, err := p.Claims("device-pi-1")
	w.must(err)
	for i := range 20 {
		token, err := p.SignWith(map[string]any{"kid": fmt.Sprint("made-up-", i)}, claims)
		w.must(err)
		if _, err := w.connectToken(token); err == nil {
			t.Error("a made-up key id is accepted")
		}
	}
	if n := p.Requests().Keys; n > 2 {
		t.Errorf("the keys were asked for %d times", n)
	}
	w.skew.Add(int64(time.Minute))
	w.must(p.RotateKeys())
	if _, err := w.connectToken(w.token(p, "device-pi-1", nil)); err != nil {
		t.Errorf("with a new key: %v", err)
	}
}

// TestProviderIsDown: devices that have a token go on, also when it has expired
// meanwhile, until the stated limit; then there is no answer for anybody.
func TestProviderIsDown(t *testing.T) {
	w, p := providerWorld(t)
	token := w.token(p, "device-pi-1", nil) // for ten minutes
	_, err := w.connectToken(token)
	w.must(err)
	limit := time.Duration(config.CalloutDefaults().OIDC.MaxStale)
	p.Stop()
	for _, after := range []time.Duration{5 * time.Minute, 15 * time.Minute, limit - time.Minute} {
		w.skew.Store(int64(after))
		if _, err := w.connectToken(token); err != nil {
			t.Errorf("after %s: %v", after, err)
		}
	}
	w.must(p.Restart(t.Context()))
	w.skew.Add(int64(6 * time.Minute)) // the session that began last is over
	if _, err := w.connectToken(token); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("expired, with a provider that answers: %v", err)
	}
	p.Stop()
	w.skew.Store(int64(3 * limit))
	before := w.decisions("granted")
	if _, err := w.connectToken(token); err == nil {
		t.Error("let in beyond the limit")
	}
	if w.decisions("granted") != before {
		t.Error("granted beyond the limit")
	}
}

// TestStoreIsDown: without policies nothing is known, which is neither yes nor no.
func TestStoreIsDown(t *testing.T) {
	w, p := providerWorld(t)
	w.policies.mu.Lock()
	w.policies.problem = errors.New("no route to the store")
	w.policies.mu.Unlock()
	if _, err := w.connectToken(w.token(p, "device-pi-1", nil)); err == nil {
		t.Error("let in without a policy")
	}
	if w.decisions("unavailable") != 1 || w.decisions("denied") != 0 {
		t.Errorf("%v without an answer, %v denied", w.decisions("unavailable"), w.decisions("denied"))
	}
	if !strings.Contains(w.log.String(), "no route to the store") {
		t.Error("the log does not say why")
	}
}

// skewed is a clock that a test moves, and may stop.
type skewed struct {
	atomic.Int64
	stopped atomic.Pointer[time.Time]
}

func (s *skewed) now() time.Time {
	now := time.Now()
	if at := s.stopped.Load(); at != nil {
		now = *at
	}
	return now.Add(time.Duration(s.Load()))
}

func (s *skewed) stop() { s.set(time.Now()) }

// set stops the clock at a time.
func (s *skewed) set(at time.Time) { s.stopped.Store(&at) }
