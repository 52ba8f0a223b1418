package token

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/client"
	zhttp "github.com/zitadel/oidc/v3/pkg/http"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"golang.org/x/oauth2"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

const (
	// questionTimeout bounds a question with all that belongs to it, and
	// requestTimeout one request of it.
	questionTimeout, requestTimeout = 20 * time.Second, 10 * time.Second
	// What is signed says that it is good from a little before now to a little
	// after, because clocks differ.
	before, after = 90 * time.Second, 5 * time.Minute
	// maxToken bounds a token in bytes, as the callout does.
	maxToken = 16 << 10
	// assumedLife is that of a token whose issuer does not tell it, and mostLife
	// what is believed.
	assumedLife, mostLife = 5 * time.Minute, 365 * 24 * time.Hour
)

// question is one attempt to get a token.
type question struct {
	credentials v1alpha1.Credentials
	// now is the time to sign with.
	now time.Time

	http     *http.Client
	endpoint string
	answer   answer
}

// grant is a token and how long it is good from the question on.
type grant struct {
	token string
	life  time.Duration
}

// TokenEndpoint and HttpClient are what the library asks for.
func (q *question) TokenEndpoint() string    { return q.endpoint }
func (q *question) HttpClient() *http.Client { return q.http } //nolint:revive // the library's spelling

// signs reports whether the device signs what it shows to the provider.
func (q *question) signs() bool { return q.credentials.Type == v1alpha1.CredentialZitadelJWT }

// ask gets a token. Files are read here: what is in them may have been renewed.
func (q *question) ask(ctx context.Context) (grant, error) {
	transport, err := q.transport()
	if err != nil {
		return grant{}, err
	}
	q.http = &http.Client{
		Transport: &witness{transport, &q.answer}, Timeout: requestTimeout,
		// Whoever is redirected to shall not see what was signed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	get := q.bySecret
	if q.signs() {
		get = q.byKey
	}
	token, err := get(ctx)
	if err != nil {
		return grant{}, err
	}
	return read(token)
}

// transport keeps no connection: a device asks a few times a day.
func (q *question) transport() (*http.Transport, error) {
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := q.credentials.CAFile; file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading [credentials] ca_file: %w", err)
		}
		secure.RootCAs = x509.NewCertPool()
		if !secure.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("[credentials] ca_file: %s holds no certificate in PEM", file)
		}
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: secure, DisableKeepAlives: true, ForceAttemptHTTP2: true,
	}, nil
}

// discover finds out where tokens are issued, and how to authenticate there.
func (q *question) discover(ctx context.Context) (methods []oidc.AuthMethod, err error) {
	found, err := client.Discover(ctx, q.credentials.Issuer, q.http)
	if err != nil {
		return nil, q.explain(err)
	}
	q.endpoint = found.TokenEndpoint
	if strings.HasPrefix(q.credentials.Issuer, "https://") && !strings.HasPrefix(q.endpoint, "https://") {
		return nil, outage{fmt.Errorf("the OpenID provider at %s issues tokens at %q, where they would cross the network in clear", q.credentials.Issuer, q.endpoint)}
	}
	return found.TokenEndpointAuthMethodsSupported, nil
}

// byKey signs who this is, and has it changed for a token.
func (q *question) byKey(ctx context.Context) (*oauth2.Token, error) {
	assertion, err := q.sign()
	if err != nil {
		return nil, err
	}
	if _, err := q.discover(ctx); err != nil {
		return nil, err
	}
	token, err := client.JWTProfileExchange(ctx, oidc.NewJWTProfileGrantRequest(assertion, q.scopes()...), q)
	if err != nil {
		return nil, q.explain(err, assertion)
	}
	return token, nil
}

// sign is the assertion of RFC 7523. Errors tell nothing of what is in the file.
func (q *question) sign() (string, error) {
	file := q.credentials.KeyFile
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading [credentials] key_file: %w", err)
	}
	var key struct{ Type, KeyID, Key, UserID string }
	if json.Unmarshal(data, &key) != nil || key.Type != "serviceaccount" || key.KeyID == "" || key.UserID == "" {
		return "", fmt.Errorf("[credentials] key_file: %s is not the key of a machine user as Zitadel offers it, in JSON", file)
	}
	claims := oidc.NewJWTProfileAssertion(key.UserID, key.KeyID, []string{q.credentials.Issuer}, []byte(key.Key))
	claims.IssuedAt, claims.Expiration = oidc.FromTime(q.now.Add(-before)), oidc.FromTime(q.now.Add(after))
	assertion, err := oidc.GenerateJWTProfileToken(claims)
	if err != nil {
		return "", fmt.Errorf("[credentials] key_file: the private key in %s cannot be used to sign", file)
	}
	return assertion, nil
}

// secretRequest asks for a token by an id and a secret. The audience is for
// providers that know no scope for it; the others ignore it.
type secretRequest struct {
	GrantType    oidc.GrantType           `schema:"grant_type"`
	Scope        oidc.SpaceDelimitedArray `schema:"scope"`
	Audience     string                   `schema:"audience"`
	ClientID     string                   `schema:"client_id,omitempty"`
	ClientSecret string                   `schema:"client_secret,omitempty"`
}

func (q *question) bySecret(ctx context.Context) (*oauth2.Token, error) {
	data, err := os.ReadFile(q.credentials.ClientSecretFile)
	if err != nil {
		return nil, fmt.Errorf("reading [credentials] client_secret_file: %w", err)
	}
	id, secret := q.credentials.ClientID, strings.TrimSpace(string(data))
	if secret == "" {
		return nil, fmt.Errorf("[credentials] client_secret_file: %s is empty", q.credentials.ClientSecretFile)
	}
	methods, err := q.discover(ctx)
	if err != nil {
		return nil, err
	}
	request := secretRequest{GrantType: oidc.GrantTypeClientCredentials, Scope: q.scopes(), Audience: q.credentials.Audience}
	var authenticate any = zhttp.AuthorizeBasic(id, secret)
	// Every provider takes the header, but for those that say otherwise.
	if slices.Contains(methods, oidc.AuthMethodPost) && !slices.Contains(methods, oidc.AuthMethodBasic) {
		request.ClientID, request.ClientSecret, authenticate = id, secret, nil
	}
	token, err := client.CallTokenEndpointWithAuthFn(ctx, request, authenticate, q)
	if err != nil {
		return nil, q.explain(err, secret)
	}
	return token, nil
}

// scopes are those of the configuration, or those by which Zitadel makes a token
// for the audience that has the roles of its bearer there.
func (q *question) scopes() []string {
	if len(q.credentials.Scopes) > 0 {
		return q.credentials.Scopes
	}
	return []string{oidc.ScopeOpenID, "urn:zitadel:iam:org:project:id:" + q.credentials.Audience + ":aud", "urn:zitadel:iam:org:projects:roles"}
}

// read checks that the answer has a token that can be shown to the broker.
func read(token *oauth2.Token) (grant, error) {
	text := token.AccessToken
	switch {
	case strings.Count(text, ".") != 2:
		return grant{}, errors.New("the OpenID provider issues tokens that nobody but itself can check; have it issue JWTs (with Zitadel the access token type of the machine user)")
	case len(text) > maxToken:
		return grant{}, fmt.Errorf("the OpenID provider issued a token of %d bytes, at most %d", len(text), maxToken)
	}
	life := assumedLife
	if seconds, told := token.Extra("expires_in").(float64); told && seconds > 0 {
		life = time.Duration(min(seconds, mostLife.Seconds()) * float64(time.Second))
	}
	return grant{text, life}, nil
}
