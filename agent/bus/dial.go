package bus

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"github.com/nationtech/harmony-fleet/apis/wire"
)

const (
	// connectTimeout bounds one attempt to connect to one server.
	connectTimeout = 10 * time.Second
	// loginTimeout bounds the TLS handshake and the login after that. They are three round
	// trips, of seconds each by a satellite, and an auth callout may ask others.
	loginTimeout = 30 * time.Second
	// segment is how many bytes of TCP a packet carries at most: with its headers it has the
	// 1280 that IPv6 has every link carry. Larger ones vanish on many a path through tunnels
	// whose firewalls drop what would tell the sender.
	segment = 1220
	// pingInterval is between two pings. A broker that answers none until the next
	// one is gone.
	pingInterval = 4 * wire.HeartbeatInterval
	// unacknowledged is how long the kernel waits for the other side's to have what was
	// sent. A device whose link died is connected anew before it counts as unreachable.
	unacknowledged = wire.HeartbeatInterval * 3 / 2
)

// dial connects once. It does not let the client reconnect by itself: a new
// connection begins with a password that is read anew, with a full read of the
// desired state and with every failure told, which the client's own reconnects
// leave out in part.
//
// It returns the token that it logged in with, if it did with one.
func dial(ctx context.Context, to Target, more ...nats.Option) (token string, nc *nats.Conn, err error) {
	token, login, err := login(ctx, to)
	if err != nil {
		return "", nil, err
	}
	options := append([]nats.Option{
		nats.Name("fleet-agent " + string(to.Device)),
		nats.CustomInboxPrefix(wire.InboxPrefix(to.Device)),
		nats.NoReconnect(),
		nats.Timeout(loginTimeout),
		nats.SetCustomDialer(dialer{ctx, unacknowledged}),
		// For a broker that hangs while its kernel does not: links that are dead are
		// noticed sooner and cheaper, by heartbeats that are not acknowledged.
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(1),
	}, append(login, more...)...)
	if file := to.NATS.CAFile; file != "" {
		options = append(options, nats.RootCAs(file))
	}
	urls, handshakeFirst := to.NATS.Dial()
	if handshakeFirst {
		options = append(options, nats.TLSHandshakeFirst())
	}
	nc, err = nats.Connect(urls, options...)
	if err != nil {
		if token != "" && errors.Is(err, nats.ErrAuthorization) {
			to.Tokens.Refused(token)
		}
		return "", nil, explain(to, err)
	}
	return token, nc, nil
}

// dialer ends a connection with its context, also one that hangs in a handshake, and
// when nothing of what was sent arrives for a while.
type dialer struct {
	ctx            context.Context
	unacknowledged time.Duration
}

// Dial connects within connectTimeout.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, connectTimeout)
	defer cancel()
	// Heartbeats are often enough: the kernel's own signs of life would only cost.
	conn, err := (&net.Dialer{KeepAlive: -1, Control: d.careful}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(d.ctx, func() { _ = conn.Close() })
	return conn, nil
}

// careful has the kernel end the connection of a socket in time, and send and ask for
// packets that get through.
func (d dialer) careful(_, _ string, socket syscall.RawConn) (err error) {
	failed := socket.Control(func(fd uintptr) {
		err = errors.Join(
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.unacknowledged.Milliseconds())),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment),
		)
	})
	return errors.Join(failed, err)
}

// errRenewed ends a connection that has a fresher token to begin with anew.
var errRenewed = errors.New("the token was renewed")

// leastLife is how long a connection must have lasted for the end of its session
// to be nothing but that: a broker that ends each at once is a failure.
const leastLife = time.Second

// renewal is why a connection that lasted so long ended as it was meant to; "" when
// it failed.
func renewal(end error, lasted time.Duration) string {
	switch {
	case errors.Is(end, errRenewed):
		return "the token was renewed"
	case errors.Is(end, nats.ErrAuthExpired) && lasted > leastLife:
		return "the broker's session was over"
	}
	return ""
}

// ending is why a connection ended: what the broker said last counts, and not that
// it hung up then.
type ending struct {
	expired atomic.Bool
	reason  chan error // with room for the first
}

func newEnding() *ending { return &ending{reason: make(chan error, 1)} }

// hear is called with each problem before closed is.
func (e *ending) hear(err error) {
	if errors.Is(err, nats.ErrAuthExpired) {
		e.expired.Store(true)
	}
}

func (e *ending) closed(err error) {
	if e.expired.Load() {
		err = nats.ErrAuthExpired
	}
	select {
	case e.reason <- err:
	default: // it has ended already
	}
}

// lost is why a connection ended.
func lost(err error) error {
	return fmt.Errorf("connection lost: %w", cmp.Or(err, nats.ErrConnectionClosed))
}

// explain says what a failed connection means and what to do about it, for a
// person who has the agent's configuration in front of them.
func explain(to Target, err error) error {
	urls := strings.Join(to.NATS.URLs, ", ")
	var (
		dns       *net.DNSError
		network   net.Error
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		clear     tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		return fmt.Errorf("the broker at %s refused the login of %s; check [credentials]: %w", urls, who(to), err)
	case errors.Is(err, nats.ErrAuthExpired):
		return fmt.Errorf("the broker at %s ended the session as soon as it began; check the clocks of the broker and its callout: %w", urls, err)
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("nothing listens at %s; check [nats] urls and whether the broker runs: %w", urls, err)
	case errors.As(err, &dns):
		return fmt.Errorf("the host name of %s cannot be resolved; check [nats] urls and the device's DNS: %w", urls, err)
	case errors.As(err, &authority):
		return fmt.Errorf("the broker's certificate is signed by nobody whom this device trusts; set [nats] ca_file: %w", err)
	case errors.As(err, &hostname):
		return fmt.Errorf("the broker's certificate is for another host; write the host as the certificate has it in [nats] urls: %w", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the broker's certificate is not valid at this time; check the device's clock, then the certificate: %w", err)
	case errors.As(err, &clear):
		return fmt.Errorf("the broker at %s begins in clear; have it take handshake_first, or write tls:// in place of tls-first:// in [nats] urls: %w", urls, err)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("the broker at %s offers no TLS; it has to, or [nats] urls and ca_file must not ask for it: %w", urls, err)
	case errors.Is(err, nats.ErrPermissionViolation):
		return fmt.Errorf("the broker let the device in and refused what it needs; its permissions must be those of device %q: %w", to.Device, err)
	case errors.Is(err, nats.ErrTimeout), errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("the broker at %s does not answer; check the network and firewalls between: %w", urls, err)
	}
	return fmt.Errorf("broker at %s: %w", urls, err)
}

// asyncError logs what the client reports on its own. A refused request shows to
// its sender as a time-out, and only here as what it is.
func (b *Bus) asyncError(_ *nats.Conn, _ *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		b.Log.Error(err, "broker refused a subject: the permissions of this device are not what the agent needs")
	case errors.Is(err, nats.ErrAuthExpired):
		b.Log.V(1).Info("broker ends the session, beginning another")
	case errors.Is(err, nats.ErrSlowConsumer):
		b.Log.V(1).Info("messages came faster than they are handled, some were dropped")
	default:
		b.Log.Error(err, "broker reported an error")
	}
}
