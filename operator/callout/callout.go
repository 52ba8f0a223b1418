// Package callout decides for the broker who may connect, and as what: it checks
// the bearer's token or key, asks the device's policy, and answers with a user of
// the right account that has exactly the permissions of package wire, for as long
// as the proof is good. A device that brings a token of enrolment gets its key
// written into its policy, once.
//
// Who must not connect is denied, with the reason in the log and not on the wire.
// When it cannot be found out, because the provider or the store of policies is
// down, there is no answer: the broker lets the device try again. The package
// keeps nothing, so any number of replicas may answer.
package callout

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/synadia-io/callout.go"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/util/cache"

	config "github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
	"github.com/nationtech/harmony-fleet/operator/bus"
)

// decisionTimeout bounds one decision. The broker waits as long as its own
// timeout of logins, which should be longer.
const decisionTimeout = 5 * time.Second

// maxWait bounds the wait between two attempts to reach the broker. Every device
// that is there sooner waits in vain until the broker gives its login up.
const maxWait = 500 * time.Millisecond

// Options of a Service; all are needed, unless they say otherwise.
type Options struct {
	Config   config.CalloutConfig
	Policies Policies
	// Enrolments lets devices in that bring a token of enrolment; nil lets none in
	// by one.
	Enrolments Enrolments
	// Provider is the client for the provider of tokens; not needed without an issuer.
	Provider *http.Client
	Log      logr.Logger
	Now      func() time.Time
}

// Service answers the broker.
type Service struct {
	options Options
	judge   *judge
	xkey    nkeys.KeyPair
	metrics metrics
	// lines bounds what the log takes: who may not connect decides how often it
	// tries.
	lines *rate.Limiter
	conn  atomic.Pointer[bus.Conn] // nil before Run
}

// New reads the keys. Errors name the files, and nothing that is in them.
func New(o Options) (*Service, error) {
	issuer, err := readKey(o.Config.IssuerKeyFile, "SA")
	if err != nil {
		return nil, fmt.Errorf("issuerKeyFile: %w", err)
	}
	xkey, err := readKey(o.Config.XKeyFile, "SX")
	if err != nil {
		return nil, fmt.Errorf("xkeyFile: %w", err)
	}
	return &Service{
		options: o, xkey: xkey, metrics: newMetrics(), lines: rate.NewLimiter(20, 100),
		judge: &judge{
			config: o.Config, tokens: newTokens(o.Config.OIDC, o.Provider, o.Now), policies: o.Policies, issuer: issuer, now: o.Now, log: o.Log,
			enrolments: o.Enrolments, joins: rate.NewLimiter(joinRate, joinBurst),
			known: cache.NewLRUExpireCacheWithClock(maxKnown, clock(o.Now)),
		},
	}, nil
}

// readKey reads the seed of an nkey that begins with prefix.
func readKey(file, prefix string) (nkeys.KeyPair, error) {
	seed, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	seed = bytes.TrimSpace(seed)
	if !bytes.HasPrefix(seed, []byte(prefix)) {
		return nil, fmt.Errorf("%s does not begin with %s, as the seed of such a key does", file, prefix)
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return pair, nil
}

// clock tells the cache the time.
type clock func() time.Time

// Now implements the cache's clock.
func (c clock) Now() time.Time { return c() }

// Run answers until ctx ends. It fails for what does not heal by itself.
func (s *Service) Run(ctx context.Context) error {
	c := s.options.Config
	conn, err := bus.Connect(ctx, bus.Options{
		NATS: c.NATS, Credentials: c.Credentials, Name: "fleet-callout", Log: s.options.Log.WithName("bus"), MaxWait: maxWait,
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	s.conn.Store(conn)
	// Endpoints share the requests among them, each working on one at a time. The
	// library's AsyncWorkers would answer behind the back of the client's service,
	// which reads the request meanwhile.
	service, err := callout.NewAuthorizationService(conn.Client(),
		callout.Name("fleet-callout"), callout.ServiceEndpoints(c.Workers),
		callout.ResponseSignerKey(s.judge.issuer), callout.EncryptionKey(s.xkey),
		callout.Logger(silent{}), callout.ErrCallback(s.failed),
		callout.Authorizer(func(r *jwt.AuthorizationRequest) (string, error) { return s.answer(ctx, r) }),
	)
	if err != nil {
		return fmt.Errorf("listening to the broker's requests: %w", err)
	}
	s.options.Log.Info("answering the broker", "issuer", cmp.Or(c.OIDC.Issuer, "none: devices log in by keys of their own alone"), "audience", c.OIDC.Audience, "workers", c.Workers)
	<-ctx.Done()
	if err := service.Stop(); err != nil {
		return fmt.Errorf("ending: %w", err)
	}
	return nil
}

// answer is the user JWT for one request; an error for one that is denied, and
// ErrAbortRequest for no answer at all.
func (s *Service) answer(ctx context.Context, r *jwt.AuthorizationRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, decisionTimeout)
	defer cancel()
	begin := time.Now()
	who, user, err := s.judge.decide(ctx, r)
	verdict := verdictOf(err)
	s.metrics.decided(verdict, time.Since(begin))
	switch {
	case err == nil:
		s.options.Log.V(1).Info("granted", "name", who.Name, "role", who.Role, "host", r.ClientInformation.Host)
		return user, nil
	case s.lines.Allow():
		s.options.Log.Info(verdict, "reason", err.Error(), "host", r.ClientInformation.Host, "server", r.Server.Name)
	}
	if verdict == verdictUnavailable {
		return "", errors.Join(err, callout.ErrAbortRequest)
	}
	return "", ErrDenied // the reason is nobody's business out there
}

// failed hears of all errors, those of answer too, which are told already.
func (s *Service) failed(err error) {
	var request callout.RequestContextError
	if errors.As(err, &request) && (errors.Is(err, ErrDenied) || errors.Is(err, callout.ErrAbortRequest)) {
		return
	}
	s.metrics.decided(verdictBad, 0)
	if s.lines.Allow() {
		s.options.Log.Error(err, "a request of the broker could not be handled")
	}
}

// Ready is why no request can be answered now.
func (s *Service) Ready() error {
	if conn := s.conn.Load(); conn == nil || !conn.Connected() {
		return bus.ErrDisconnected
	}
	return nil
}

// Collector is what is measured.
func (s *Service) Collector() prometheus.Collector { return s.metrics }

// silent is a logger for the library, which tells everything twice.
type silent struct{}

func (silent) Noticef(string, ...any) {}
func (silent) Warnf(string, ...any)   {}
func (silent) Fatalf(string, ...any)  {}
func (silent) Errorf(string, ...any)  {}
func (silent) Debugf(string, ...any)  {}
func (silent) Tracef(string, ...any)  {}
