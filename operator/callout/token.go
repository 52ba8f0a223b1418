package callout

import (
	"context"
	"net/http"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

const (
	// maxToken bounds a token, in bytes: the broker takes hardly more.
	maxToken = 16 << 10
	// maxSkew is how far the clock of the provider may be ahead of this one. One that
	// is behind needs no tolerance while tokens last: devices replace them long
	// before they expire.
	maxSkew = time.Minute
	// graceSession is how long a session lasts that began with a token that has
	// expired: soon after the provider is back a fresh one is asked for.
	graceSession = 5 * time.Minute
)

// algorithms are the ways in which a token may be signed: asymmetric ones alone,
// or a public key would do as a secret.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}
}

// tokens verifies the provider's tokens.
type tokens struct {
	oidc     config.OIDCSection
	keys     *keySet
	verifier *oidc.IDTokenVerifier
	now      func() time.Time
}

// newTokens is nil without an issuer.
func newTokens(o config.OIDCSection, client *http.Client, now func() time.Time) *tokens {
	if o.Issuer == "" {
		return nil
	}
	var names []string
	for _, a := range algorithms() {
		names = append(names, string(a))
	}
	keys := &keySet{issuer: o.Issuer, client: client, now: now, maxStale: time.Duration(o.MaxStale)}
	return &tokens{oidc: o, keys: keys, now: now, verifier: oidc.NewVerifier(o.Issuer, keys, &oidc.Config{
		ClientID: o.Audience, SupportedSigningAlgs: names, Now: now,
		SkipExpiryCheck: true, // inTime does that
	})}
}

// identity is who bears the token. It fails with ErrDenied, or because the
// provider's keys cannot be had.
func (t *tokens) identity(ctx context.Context, token string) (Identity, error) {
	if len(token) > maxToken {
		return Identity{}, denied("token of %d bytes, at most %d", len(token), maxToken)
	}
	var unknown error
	verified, err := t.verifier.Verify(context.WithValue(ctx, unknownKeys{}, &unknown), token)
	if unknown != nil {
		return Identity{}, unknown
	}
	if err != nil {
		return Identity{}, denied("%v", err)
	}
	var claims rawClaims
	if err := verified.Claims(&claims); err != nil {
		return Identity{}, denied("claims of the token: %v", err)
	}
	id, notBefore, err := identify(t.oidc, claims)
	if err != nil {
		return Identity{}, err
	}
	id.Expires, err = t.inTime(ctx, id, notBefore)
	return id, err
}

// inTime checks that the token is valid now, and returns until when it is good. A
// token that has expired still is for a while when no fresh one can be had: the
// outage of a provider must not cut a fleet off.
func (t *tokens) inTime(ctx context.Context, id Identity, notBefore time.Time) (time.Time, error) {
	now := t.now()
	if notBefore.After(now.Add(maxSkew)) {
		return time.Time{}, denied("token of %q is not valid before %s, and this clock shows %s: set the clocks of provider and callout", id.Name, written(notBefore), written(now))
	}
	if now.Before(id.Expires) {
		return id.Expires, nil
	}
	late := now.Sub(id.Expires)
	if late > time.Duration(t.oidc.MaxStale) || t.keys.reachable(ctx) {
		return time.Time{}, denied("token of %q expired at %s, and this clock shows %s", id.Name, written(id.Expires), written(now))
	}
	return now.Add(min(graceSession, time.Duration(t.oidc.MaxStale)-late)), nil
}

func written(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// rawClaims are claims as they were signed.
type rawClaims []byte

// UnmarshalJSON implements json.Unmarshaler.
func (r *rawClaims) UnmarshalJSON(data []byte) error {
	*r = append((*r)[:0], data...)
	return nil
}
