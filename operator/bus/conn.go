package bus

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nationtech/harmony-fleet/apis/config/v1alpha1"
)

const (
	connectTimeout = 5 * time.Second
	// requestTimeout bounds one request to the broker; commands to devices have
	// a longer one of their own.
	requestTimeout = 5 * time.Second
	// A dead link is noticed after pingInterval times maxPingsOut.
	pingInterval, maxPingsOut = 10 * time.Second, 2
	// Bounds of the jittered wait between two attempts.
	minBackoff, maxBackoff = 100 * time.Millisecond, 10 * time.Second
)

// ErrDisconnected says that there is no connection to the broker now. Whether
// what was sent last arrived is unknown.
var ErrDisconnected = errors.New("not connected to the broker")

// Options of a connection.
type Options struct {
	// NATS says where the broker is, Credentials as whom to connect.
	NATS        v1alpha1.NATSSection
	Credentials v1alpha1.Credentials
	// Name that the broker shows for the connection.
	Name string
	// Log hears of the connection's ups and downs and of refused requests.
	Log logr.Logger
	// OnConnection is called with each change, in order, from one goroutine at
	// a time; it must not block. May be nil.
	OnConnection func(connected bool)
	// FailFast has Connect fail when no broker can be reached, for a program
	// that a person waits for.
	FailFast bool
	// MaxWait bounds the wait between two attempts to connect; 0 means 10 s.
	MaxWait time.Duration
}

// Conn is a connection to the broker that comes back by itself. Its methods may
// be called from several goroutines.
type Conn struct {
	options Options
	nc      *nats.Conn
	js      jetstream.JetStream
	link    *link
	refused atomic.Pointer[refusal]
	closed  chan struct{}
}

// refusal is the last thing that the broker did not permit.
type refusal struct{ err error }

// Connect connects to the broker. It fails for what does not heal by itself: a
// refused user, a certificate that does not verify, a file that cannot be read.
// A broker that cannot be reached is no failure, unless FailFast asks for that:
// Connect returns, and attempts go on for ever with a jittered back-off.
func Connect(ctx context.Context, options Options) (*Conn, error) {
	c := &Conn{options: options, link: newLink(), closed: make(chan struct{})}
	settings, err := c.settings()
	if err != nil {
		return nil, fmt.Errorf("connecting to the broker: %w", err)
	}
	timeout := connectTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	up, _ := c.link.channels()
	urls, _ := options.NATS.Dial()
	c.nc, err = nats.Connect(urls, append(settings, nats.Timeout(timeout))...)
	if err != nil {
		if advice := permanent(err); advice != "" {
			return nil, fmt.Errorf("connecting to %s as %q: %w: %s", urls, options.Credentials.User, err, advice)
		}
		if options.FailFast || ctx.Err() != nil {
			return nil, fmt.Errorf("connecting to %s: %w", urls, errors.Join(err, ctx.Err()))
		}
		options.Log.Error(err, "cannot reach the broker yet, going on trying", "urls", urls)
		c.nc, err = nats.Connect(urls, append(settings, nats.Timeout(connectTimeout), nats.RetryOnFailedConnect(true))...)
		if err != nil {
			return nil, fmt.Errorf("connecting to %s: %w", urls, err)
		}
	} else {
		<-up // by connected, which runs beside this
	}
	if c.js, err = jetstream.New(c.nc); err != nil {
		c.Close()
		return nil, fmt.Errorf("preparing JetStream: %w", err)
	}
	return c, nil
}

// permanent says what to do about an error that does not heal by itself, and ""
// about others.
func permanent(err error) string {
	var (
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		alert       tls.AlertError
		authority   x509.UnknownAuthorityError
	)
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return "check the user and the password"
	case errors.As(err, &certificate), errors.As(err, &authority):
		return "check ca_file and that the certificate is valid for the host name in the URL"
	case errors.As(err, &record), errors.As(err, &alert), errors.Is(err, nats.ErrSecureConnWanted), errors.Is(err, nats.ErrSecureConnRequired):
		return "check that the URL's scheme, tls:// or nats://, is what the broker speaks"
	}
	return ""
}

// settings are the options of the NATS client. What lies in files is read once
// here, so that a missing one is told at once.
func (c *Conn) settings() ([]nats.Option, error) {
	login, err := login(c.options.Credentials, c.options.Log)
	if err != nil {
		return nil, err
	}
	settings := []nats.Option{
		nats.Name(c.options.Name),
		login,
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(func(attempt int) time.Duration { return backoff(attempt, cmp.Or(c.options.MaxWait, maxBackoff)) }),
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPingsOut),
		nats.ReconnectBufSize(-1), // what cannot be sent now fails now
		nats.ConnectHandler(c.connected),
		nats.ReconnectHandler(c.connected),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { c.disconnected(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			c.options.Log.V(1).Info("another attempt to reach the broker failed", "error", err.Error())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.failed(err) }),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}
	if file := c.options.NATS.CAFile; file != "" {
		settings = append(settings, nats.RootCAs(file))
	}
	if _, handshakeFirst := c.options.NATS.Dial(); handshakeFirst {
		settings = append(settings, nats.TLSHandshakeFirst())
	}
	return settings, nil
}

// backoff is how long to wait before the attempt: anything up to a bound that
// doubles each time up to most, so that many clients do not come back at once.
func backoff(attempt int, most time.Duration) time.Duration {
	bound := min(most, minBackoff<<min(attempt, 10))
	return rand.N(bound)
}

func (c *Conn) connected(nc *nats.Conn) {
	c.options.Log.Info("connected to the broker", "url", nc.ConnectedUrlRedacted(), "version", nc.ConnectedServerVersion())
	c.link.set(true)
	if c.options.OnConnection != nil {
		c.options.OnConnection(true)
	}
}

func (c *Conn) disconnected(err error) {
	if !c.Connected() {
		return // an attempt failed, and nothing changed
	}
	c.link.set(false)
	if err != nil { // not by Close
		c.options.Log.Error(err, "lost the connection to the broker, going on trying")
	}
	if c.options.OnConnection != nil {
		c.options.OnConnection(false)
	}
}

// failed hears what the broker refuses outside of a request's answer: a request
// that it does not permit is only seen to time out.
func (c *Conn) failed(err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		c.refused.Store(&refusal{err})
	}
	c.options.Log.Error(err, "error on the connection to the broker", "user", c.options.Credentials.User)
}

// Connected tells whether there is a connection now.
func (c *Conn) Connected() bool { return c.link.connected() }

// Client is the client under the connection, for a library that needs it. Its
// user closes nothing.
func (c *Conn) Client() *nats.Conn { return c.nc }

// Close ends the connection and all that goes on over it.
func (c *Conn) Close() {
	c.nc.Close()
	<-c.closed
}
