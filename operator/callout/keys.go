package callout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// keysMaxAge is how long keys are used without asking for them again.
	keysMaxAge = 10 * time.Minute
	// keysMinInterval is the shortest time between two questions, whatever keys
	// tokens name: who sends a token must not make us flood the provider.
	keysMinInterval = 10 * time.Second
	// maxDocument bounds what the provider answers, in bytes.
	maxDocument = 1 << 20
)

// keySet is the provider's keys. Only the issuer's own discovery document says
// where they are: nothing in a token does.
type keySet struct {
	issuer string
	client *http.Client
	now    func() time.Time
	// maxStale is how long keys are used while the provider does not answer.
	maxStale time.Duration

	mu      sync.Mutex // held while asking: one question serves all who wait
	keys    []jose.JSONWebKey
	fetched time.Time // when keys arrived
	asked   time.Time
	problem error // of the last question
}

// unknownKeys is the key of a context's value, an *error: the verifier of tokens
// does not hand on which error it met.
type unknownKeys struct{}

// VerifySignature implements oidc.KeySet. A token that names a key that the
// provider does not have is denied; that keys cannot be had is told in the
// context's unknownKeys too.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSigned(token, algorithms())
	if err != nil || len(signed.Signatures) != 1 {
		return nil, denied("token: not signed once, in one of the ways %v", algorithms())
	}
	id := signed.Signatures[0].Header.KeyID
	keys, err := k.named(ctx, id)
	if err != nil {
		if unknown, asks := ctx.Value(unknownKeys{}).(*error); asks {
			*unknown = err
		}
		return nil, err
	}
	for _, key := range keys {
		if payload, err := signed.Verify(key); err == nil {
			return payload, nil
		}
	}
	return nil, denied("token: not signed by a key of %s (key id %q)", k.issuer, id)
}

// named are the keys with the id; all of them for a token that names none.
func (k *keySet) named(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	found := k.find(id)
	if len(found) == 0 || k.now().Sub(k.fetched) > keysMaxAge {
		k.ask(ctx)
		found = k.find(id)
	}
	switch {
	case k.fetched.IsZero() || k.now().Sub(k.fetched) > k.maxStale:
		return nil, fmt.Errorf("no keys of %s: %w", k.issuer, k.problem)
	case len(found) == 0 && k.problem != nil:
		// It may be a new key, which cannot be found out now.
		return nil, fmt.Errorf("key %q of %s is not known: %w", id, k.issuer, k.problem)
	}
	return found, nil
}

// reachable reports whether the provider answers, as far as that was found out
// in the last keysMinInterval.
func (k *keySet) reachable(ctx context.Context) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ask(ctx)
	return k.problem == nil
}

// ask gets the keys anew, unless that was tried a moment ago. It is called with
// mu.
func (k *keySet) ask(ctx context.Context) {
	now := k.now()
	if now.Sub(k.asked) < keysMinInterval {
		return
	}
	k.asked = now
	var keys []jose.JSONWebKey
	if keys, k.problem = k.fetch(ctx); k.problem == nil {
		k.keys, k.fetched = keys, now
	}
}

func (k *keySet) find(id string) (found []jose.JSONWebKey) {
	for _, key := range k.keys {
		if id == "" || key.KeyID == id {
			found = append(found, key)
		}
	}
	return found
}

// fetch asks the provider.
func (k *keySet) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	var discovery struct {
		Issuer string `json:"issuer"`
		URL    string `json:"jwks_uri"`
	}
	if err := k.get(ctx, k.issuer+"/.well-known/openid-configuration", &discovery); err != nil {
		return nil, err
	}
	if discovery.Issuer != k.issuer {
		return nil, fmt.Errorf("discovery at %s speaks for %q: write the issuer exactly so", k.issuer, discovery.Issuer)
	}
	var set jose.JSONWebKeySet
	if err := k.get(ctx, discovery.URL, &set); err != nil {
		return nil, err
	}
	var keys []jose.JSONWebKey
	for _, key := range set.Keys {
		// A secret in a public place would let anybody sign.
		if key.IsPublic() && key.Valid() && key.Use != "enc" {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s lists no key to verify with", discovery.URL)
	}
	return keys, nil
}

func (k *keySet) get(ctx context.Context, url string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("asking %q: %w", url, err)
	}
	response, err := k.client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // read to its end, or of no use
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("asking %s: %s", url, response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	if len(data) > maxDocument {
		return errors.New(url + " answers with more than 1 MiB")
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	return nil
}
