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

	// asking is held while asking: one question serves all who wait for it.
	asking sync.Mutex
	asked  time.Time // with asking

	mu    sync.Mutex // never held while asking
	known known      // with mu
}

// known is what the provider said.
type known struct {
	keys    []jose.JSONWebKey
	fetched time.Time // when keys arrived
	problem error     // of the last question
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

// named are the keys with the id; all of them for a token that names none. Only
// who needs a key that is not known waits for an answer: others go on with old ones
// while it is asked for new ones.
func (k *keySet) named(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	have := k.have()
	found := have.find(id)
	if len(found) == 0 || k.now().Sub(have.fetched) > keysMaxAge {
		have = k.ask(ctx, len(found) == 0)
		found = have.find(id)
	}
	switch {
	case have.fetched.IsZero() || k.now().Sub(have.fetched) > k.maxStale:
		return nil, fmt.Errorf("no keys of %s: %w", k.issuer, have.problem)
	case len(found) == 0 && have.problem != nil:
		// It may be a new key, which cannot be found out now.
		return nil, fmt.Errorf("key %q of %s is not known: %w", id, k.issuer, have.problem)
	}
	return found, nil
}

// reachable reports whether the provider answers, as far as that was found out
// in the last keysMinInterval.
func (k *keySet) reachable(ctx context.Context) bool {
	return k.ask(ctx, true).problem == nil
}

func (k *keySet) have() known {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known
}

// ask gets the keys anew, unless that was tried a moment ago, and returns what is
// known then. Without wait it returns at once when somebody asks already.
func (k *keySet) ask(ctx context.Context, wait bool) known {
	if wait {
		k.asking.Lock()
	} else if !k.asking.TryLock() {
		return k.have()
	}
	defer k.asking.Unlock()
	now, have := k.now(), k.have()
	if now.Sub(k.asked) < keysMinInterval {
		return have
	}
	k.asked = now
	var keys []jose.JSONWebKey
	if keys, have.problem = k.fetch(ctx); have.problem == nil {
		have.keys, have.fetched = keys, now
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known = have
	return have
}

func (k known) find(id string) (found []jose.JSONWebKey) {
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
