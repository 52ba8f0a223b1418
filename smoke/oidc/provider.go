// Package oidc is an OpenID provider on loopback that issues the tokens that
// Zitadel issues to machines, for tests and the demo: it rotates its keys, has
// outages and makes forged tokens on demand. It has no login pages, checks no
// scope against what a machine was granted, and never stores anything.
package oidc

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	zitadel "github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/nationtech/harmony-fleet/smoke/process"
)

// Where Zitadel serves these; a client finds them by discovery.
const (
	tokenPath = "/oauth/v2/token"
	keysPath  = "/oauth/v2/keys"
)

// Options of a provider.
type Options struct {
	// Address of this host to listen on, for clients that are not on it; "" means
	// 127.0.0.1.
	Address string
	// Port there; 0 means a free one, which a restart keeps.
	Port int
	// ProjectID is the audience that devices ask for; "" means one made up.
	ProjectID string
	// TokenLifetime in whole seconds; 0 means 12 hours, as Zitadel has it.
	TokenLifetime time.Duration
	// TLS makes the issuer an https one, which Kubernetes insists on. Its
	// certificate must be valid for the address.
	TLS *tls.Config
}

// Provider is a running provider. Its methods are safe for concurrent use.
type Provider struct {
	options Options
	issuer  string
	org     string // the id of the organisation that every machine belongs to
	handler http.Handler

	mu       sync.Mutex
	machines map[string]machine // by name
	keys     []signingKey       // the current one last; never empty
	requests Requests

	life   sync.Mutex // held while the provider starts or stops
	server *http.Server
	served chan struct{} // closed when server has ended
}

// Requests counts what clients asked for, refused requests included.
type Requests struct{ Discovery, Keys, Token int }

// Start runs a provider that knows no machine yet.
func Start(ctx context.Context, options Options) (*Provider, error) {
	options.ProjectID = cmp.Or(options.ProjectID, newID())
	options.TokenLifetime = cmp.Or(options.TokenLifetime, 12*time.Hour)
	if options.TokenLifetime < time.Second {
		return nil, fmt.Errorf("starting the provider: a token cannot live for %s", options.TokenLifetime)
	}
	p := &Provider{options: options, org: newID(), machines: map[string]machine{}}
	if err := p.RotateKeys(); err != nil {
		return nil, err
	}
	p.handler = op.RegisterServer(&endpoints{provider: p}, op.Endpoints{
		Token:   op.NewEndpoint(tokenPath),
		JwksURI: op.NewEndpoint(keysPath),
	})
	p.life.Lock()
	defer p.life.Unlock()
	listener, err := p.firstListener(ctx)
	if err != nil {
		return nil, err
	}
	p.issuer = "http://" + listener.Addr().String()
	if options.TLS != nil {
		p.issuer = "https://" + listener.Addr().String()
	}
	p.serve(listener)
	return p, nil
}

// firstListener listens on the wanted port, or on one that stays free while the
// provider is down.
func (p *Provider) firstListener(ctx context.Context) (net.Listener, error) {
	if p.options.Port != 0 {
		return p.listen(ctx)
	}
	for {
		port, err := process.FreePort()
		if err != nil {
			return nil, fmt.Errorf("choosing the provider's port: %w", err)
		}
		p.options.Port = port
		listener, err := p.listen(ctx)
		if !errors.Is(err, syscall.EADDRINUSE) { // else another program was faster
			return listener, err
		}
	}
}

func (p *Provider) listen(ctx context.Context) (net.Listener, error) {
	address := net.JoinHostPort(cmp.Or(p.options.Address, "127.0.0.1"), strconv.Itoa(p.options.Port))
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("starting the provider: %w", err)
	}
	return listener, nil
}

func (p *Provider) serve(listener net.Listener) {
	server := &http.Server{
		Handler:           http.HandlerFunc(p.count),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	served := make(chan struct{})
	p.server, p.served = server, served
	serve := server.Serve
	if p.options.TLS != nil {
		server.TLSConfig = p.options.TLS.Clone()
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	go func() {
		defer close(served)
		_ = serve(listener) // ends with ErrServerClosed
	}()
}

// Stop breaks every connection and refuses new ones, until Restart. It does
// nothing to a provider that is stopped.
func (p *Provider) Stop() {
	p.life.Lock()
	defer p.life.Unlock()
	p.stop()
}

func (p *Provider) stop() {
	_ = p.server.Close() // tells only that it was closed before
	<-p.served
}

// Restart starts the provider again on the same port and with all that it knew,
// after stopping it when it runs.
func (p *Provider) Restart(ctx context.Context) error {
	p.life.Lock()
	defer p.life.Unlock()
	p.stop()
	listener, err := p.listen(ctx)
	if err != nil {
		return err
	}
	p.serve(listener)
	return nil
}

// Issuer is the iss of every token and where discovery begins, without a slash
// at the end.
func (p *Provider) Issuer() string { return p.issuer }

// ProjectID is the audience of a token whose scopes ask for it.
func (p *Provider) ProjectID() string { return p.options.ProjectID }

// Requests is how often each endpoint has been asked since the start, over all
// restarts.
func (p *Provider) Requests() Requests {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

func (p *Provider) count(w http.ResponseWriter, request *http.Request) {
	p.mu.Lock()
	switch request.URL.Path {
	case zitadel.DiscoveryEndpoint:
		p.requests.Discovery++
	case keysPath:
		p.requests.Keys++
	case tokenPath:
		p.requests.Token++
	}
	p.mu.Unlock()
	p.handler.ServeHTTP(w, request)
}

// newID makes an id that looks like those of Zitadel: 18 digits.
func newID() string {
	const least = 100_000_000_000_000_000
	n, err := rand.Int(rand.Reader, big.NewInt(9*least))
	if err != nil {
		panic(err) // the system's source of randomness does not fail
	}
	return strconv.FormatInt(least+n.Int64(), 10)
}
