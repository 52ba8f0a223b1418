package callout

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// TestKnownKeysDoNotWait: while the provider takes its time to answer, which anybody
// can cause with a token that names an unknown key, tokens with known keys are
// verified; also when their keys are old.
func TestKnownKeysDoNotWait(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(id string) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: id}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign([]byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		token, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	var hold atomic.Bool
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	release := sync.OnceFunc(func() { close(answer) })
	mux := http.NewServeMux()
	provider := httptest.NewServer(mux)
	defer provider.Close()
	defer release()
	mux.HandleFunc("/.well-known/openid-configuration", func(to http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		if hold.Load() {
			<-answer
		}
		_ = json.NewEncoder(to).Encode(map[string]string{"issuer": provider.URL, "jwks_uri": provider.URL + "/keys"})
	})
	mux.HandleFunc("/keys", func(to http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(to).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: private.Public(), KeyID: "known", Use: "sig"}}})
	})
	var now atomic.Int64
	k := &keySet{issuer: provider.URL, client: provider.Client(), now: func() time.Time { return time.Unix(now.Load(), 0) }, maxStale: time.Hour}
	verify := func(id string) error { _, err := k.VerifySignature(context.Background(), sign(id)); return err }
	now.Store(1e9)
	if err := verify("known"); err != nil {
		t.Fatal(err)
	}
	<-asked

	hold.Store(true)
	now.Add(int64(keysMaxAge/time.Second) + 1)
	slow := make(chan error, 2)
	go func() { slow <- verify("unknown") }()
	<-asked
	known := make(chan error, 1)
	go func() { known <- verify("known") }()
	select {
	case err := <-known:
		if err != nil {
			t.Errorf("a known key, while the provider is asked: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("a known key waits for the provider's answer")
	}
	go func() { slow <- verify("another") }()
	select {
	case err := <-slow:
		t.Errorf("an unknown key is decided about without the provider's answer: %v", err)
	default:
	}
	release()
	for range 2 {
		if err := <-slow; err == nil {
			t.Error("an unknown key is taken")
		}
	}
	if n := len(asked); n > 0 {
		t.Errorf("the provider was asked %d times more: not one question for all who wait", n)
	}
}
