package oidc

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	zitadel "github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// endpoints answers what the library has parsed, as Zitadel does with the same
// library. What it leaves to UnimplementedServer is refused.
type endpoints struct {
	op.UnimplementedServer
	provider *Provider
}

// Discovery tells of what there is, so of no endpoint for logins.
func (e *endpoints) Discovery(context.Context, *op.Request[struct{}]) (*op.Response, error) {
	issuer := e.provider.issuer
	return op.NewResponse(&zitadel.DiscoveryConfiguration{
		Issuer:                            issuer,
		TokenEndpoint:                     issuer + tokenPath,
		JwksURI:                           issuer + keysPath,
		ResponseTypesSupported:            []string{string(zitadel.ResponseTypeCode)}, // the field is mandatory
		GrantTypesSupported:               []zitadel.GrantType{zitadel.GrantTypeBearer, zitadel.GrantTypeClientCredentials},
		SubjectTypesSupported:             []string{"public"},
		IDTokenSigningAlgValuesSupported:  []string{string(jose.RS256)},
		TokenEndpointAuthMethodsSupported: []zitadel.AuthMethod{zitadel.AuthMethodBasic, zitadel.AuthMethodPost},
	}), nil
}

func (e *endpoints) Keys(context.Context, *op.Request[struct{}]) (*op.Response, error) {
	return op.NewResponse(e.provider.keySet()), nil
}

// JWTProfile is the grant of RFC 7523.
func (e *endpoints) JWTProfile(ctx context.Context, r *op.Request[zitadel.JWTProfileGrantRequest]) (*op.Response, error) {
	verifier := op.NewJWTProfileVerifier(machineKeys{e.provider}, e.provider.issuer, time.Hour, time.Second)
	assertion, err := op.VerifyJWTAssertion(ctx, r.Data.Assertion, verifier)
	if err != nil {
		return nil, err
	}
	m, known := e.provider.machineByUser(assertion.Subject)
	if !known {
		return nil, zitadel.ErrInvalidGrant().WithDescription("the machine has just been removed")
	}
	return e.issue(m, r.Data.Scope)
}

// machineKeys finds the public key that an assertion is verified with.
type machineKeys struct{ provider *Provider }

func (k machineKeys) GetKeyByIDAndClientID(_ context.Context, keyID, userID string) (*jose.JSONWebKey, error) {
	m, known := k.provider.machineByUser(userID)
	if !known || m.keyID != keyID {
		return nil, errors.New("the user has no such key")
	}
	return &jose.JSONWebKey{KeyID: keyID, Use: "sig", Key: m.key}, nil
}

// VerifyClient authenticates a machine by its secret.
func (e *endpoints) VerifyClient(_ context.Context, r *op.Request[op.ClientCredentials]) (op.Client, error) {
	m, known := e.provider.machineByName(r.Data.ClientID)
	if !known || subtle.ConstantTimeCompare([]byte(m.secret), []byte(r.Data.ClientSecret)) == 0 {
		return nil, op.NewStatusError(zitadel.ErrInvalidClient(), http.StatusUnauthorized)
	}
	return client{machine: m}, nil
}

func (e *endpoints) ClientCredentialsExchange(_ context.Context, r *op.ClientRequest[zitadel.ClientCredentialsRequest]) (*op.Response, error) {
	authenticated, ours := r.Client.(client)
	if !ours {
		return nil, zitadel.ErrServerError().WithDescription("the client is a %T", r.Client)
	}
	return e.issue(authenticated.machine, r.Data.Scope)
}

func (e *endpoints) issue(m machine, scopes []string) (*op.Response, error) {
	scopes, err := op.ValidateAuthReqScopes(client{machine: m}, scopes)
	if err != nil {
		return nil, err
	}
	token, err := e.provider.SignWith(nil, e.provider.claimsOf(m, scopes))
	if err != nil {
		return nil, err
	}
	return op.NewResponse(&zitadel.AccessTokenResponse{
		AccessToken: token,
		TokenType:   zitadel.BearerToken,
		ExpiresIn:   uint64(e.provider.options.TokenLifetime / time.Second),
		Scope:       scopes,
	}), nil
}

// client is a machine as the library sees it. The methods that it does not have
// are about logins, and the library never calls them for the two grants here.
type client struct {
	op.Client
	machine machine
}

func (c client) GetID() string                  { return c.machine.Name }
func (c client) AuthMethod() zitadel.AuthMethod { return zitadel.AuthMethodBasic }
func (c client) GrantTypes() []zitadel.GrantType {
	return []zitadel.GrantType{zitadel.GrantTypeClientCredentials}
}
func (c client) IsScopeAllowed(scope string) bool {
	return strings.HasPrefix(scope, "urn:zitadel:")
}
